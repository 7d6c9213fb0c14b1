"""A file without a problem at module level; its main part must not run."""

import cvxpy as cp

x = cp.Variable(2)

if __name__ == "__main__":
    problem = cp.Problem(cp.Minimize(cp.sum_squares(x)))
