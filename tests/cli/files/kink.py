"""A projection onto the nonnegative numbers, at the very point where its derivative jumps."""

import cvxpy as cp

x = cp.Variable(2, name="x")
c = cp.Parameter(2, name="c", value=[0.0, 0.0])
problem = cp.Problem(cp.Minimize(cp.sum_squares(x - c)), [x >= 0])
