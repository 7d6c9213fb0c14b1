"""The factorization K = L D L' of sparse quasi-definite matrices: order, symbolic phase, panels, numbers."""
