"""What all kernels are made with and of: Numba, lanes in vector registers, functions, small and sparse matrices."""
