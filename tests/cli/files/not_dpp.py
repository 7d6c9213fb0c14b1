"""Convex for every value, but a product of parameters keeps it from being DPP."""

import cvxpy as cp

x = cp.Variable(2, name="x")
scale = cp.Parameter(nonneg=True, name="scale")
weight = cp.Parameter(nonneg=True, name="weight")
problem = cp.Problem(cp.Minimize(cp.sum_squares(x) - scale * weight * cp.sum(x)))
