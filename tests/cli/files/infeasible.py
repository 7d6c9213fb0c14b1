"""Feasible for c >= 1 only, which the file's value tells, and random values do not."""

import cvxpy as cp

x = cp.Variable(2, name="x")
c = cp.Parameter(2, name="c")
never = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 1, x <= -1])
sometimes = cp.Problem(cp.Minimize(cp.sum_squares(x) + cp.sum(x)), [x >= 1, x <= c])
