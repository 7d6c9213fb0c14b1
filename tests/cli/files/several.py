"""Problems that use every cone, a second name for one of them, and things that are no problems."""

import cvxpy as cp

n = 4
x = cp.Variable(n, name="x")
c = cp.Parameter(n, name="c")
radius = cp.Parameter(pos=True, name="radius")
ball = cp.Problem(cp.Minimize(c @ x), [cp.norm(x, 2) <= radius])

X = cp.Variable((3, 3), symmetric=True, name="X")
C = cp.Parameter((3, 3), symmetric=True, name="C")
elliptope = cp.Problem(cp.Minimize(cp.trace(C @ X)), [X >> 0, cp.diag(X) == 1])

p = cp.Variable(n, name="p")
entropy = cp.Problem(cp.Maximize(cp.sum(cp.entr(p)) - c @ p), [cp.sum(p) == 1])

second_name = ball
_private = cp.Problem(cp.Minimize(cp.norm1(x)))
