"""The batched interior-point solver. Its kernels need Numba, which loads only when a solver is made.

ordering, elimination   a fill-reducing order and the symbolic factorization
panels                  the columns of L that are worked on together
symbolic, layout        the KKT matrix of a structure; where the kernels find things
lanes, kernel           values of W lanes in vector registers, or plain numbers; how kernels are compiled
factor, products        numeric factorization, products with P and A
equilibrate, scaling    scaling of the problem, and of nonnegative rows and second-order cones
further                 what is asked of the cones beyond those, and compiled only for structures that have them
semidefinite, jacobi    PSD cones; small dense matrices
nonsymmetric            exponential and power cones; their barriers: exponential, power; functions
direction, iteration    linear solutions, refined; the method itself
entry, batch            what Python calls; groups of lanes, single problems and threads
sharpen                 the exact point on the active rows
"""
