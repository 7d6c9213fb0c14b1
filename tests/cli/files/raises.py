"""A file that fails while it runs."""

import cvxpy as cp

x = cp.Variable(2)
problem = cp.Problem(cp.Minimize(cp.sum_squares(x - undefined)))  # noqa: F821
