"""Parameters and variables of equal names, one named like an argument of numpy.savez, one like a result."""

import cvxpy as cp

x = cp.Variable(2, name="status")
y = cp.Variable(2, name="y")
z = cp.Variable(name="y")
a = cp.Parameter(2, name="file")
b = cp.Parameter(2, name="file")
print("loaded")  # noqa: T201
problem = cp.Problem(cp.Minimize(cp.sum_squares(x - a) + cp.sum_squares(y - b) + z**2))
