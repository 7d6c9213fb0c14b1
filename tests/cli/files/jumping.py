"""A linear program: its solution jumps from vertex to vertex, or stays where it is."""

import cvxpy as cp

x = cp.Variable(2, name="x")
c = cp.Parameter(2, name="c", value=[0.0, 0.0])
problem = cp.Problem(cp.Minimize(cp.norm1(x - c) + 1e-3 * cp.sum_squares(x)))
