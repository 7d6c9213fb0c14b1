"""One parameter for each attribute that gives a matrix or vector structure."""

import cvxpy as cp

n = 3
x = cp.Variable(n, name="x")
Q = cp.Parameter((n, n), PSD=True, name="Q")
S = cp.Parameter((n, n), symmetric=True, name="S")
D = cp.Parameter((n, n), diag=True, name="D")
N = cp.Parameter(n, nonpos=True, name="N")
B = cp.Parameter(n, bounds=[-1, 2], name="B")
W = cp.Parameter((n, n), sparsity=[(0, 1), (2, 0)], name="W")
problem = cp.Problem(
    cp.Minimize(cp.quad_form(x, Q) + 0.1 * cp.sum_squares(S @ x - B) + cp.sum_squares(D @ x - 1)),
    [cp.sum(x) == 1, x >= N, cp.norm(W @ x) <= 3],
)
