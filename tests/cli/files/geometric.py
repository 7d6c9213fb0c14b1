"""The largest box whose walls and floor have a given area: log-log convex."""

import cvxpy as cp

h = cp.Variable(pos=True, name="h")
w = cp.Variable(pos=True, name="w")
d = cp.Variable(pos=True, name="d")
wall = cp.Parameter(pos=True, name="wall")
floor = cp.Parameter(pos=True, name="floor")
box = cp.Problem(cp.Maximize(h * w * d), [2 * (h * w + h * d) <= wall, w * d <= floor, d <= 2 * w])
