"""Concave, and minimized; and a problem that is fine beside it."""

import cvxpy as cp

x = cp.Variable(2, name="x")
c = cp.Parameter(2, name="c")
concave = cp.Problem(cp.Minimize(cp.sum(cp.sqrt(x)) + c @ x), [x <= 1])
fine = cp.Problem(cp.Minimize(cp.sum_squares(x - c)))
