"""A lasso with a nonnegative weight, declared so."""

import cvxpy as cp

x = cp.Variable(3, name="x")
A = cp.Parameter((4, 3), name="A")
b = cp.Parameter(4, name="b")
weight = cp.Parameter(nonneg=True, name="weight")
problem = cp.Problem(cp.Minimize(cp.sum_squares(A @ x - b) + weight * cp.norm1(x)))
