"""The batched interior-point solver. Its kernels need Numba, which loads only when a solver is made.

iteration, residuals    the method itself; how far it has come
sharpen                 the exact point on the active rows
entry, batch            what Python calls; groups of lanes, single problems and threads
cones/                  symmetric: nonnegative rows and second-order cones; psd; nonsymmetric with exponential and
                        power; optional: what only structures with curved cones beyond the second order compile
kkt/                    the KKT matrix of a structure, where the kernels find things, scales, linear solutions
adjoint/                the derivative's systems

Vector registers and compilation are in ``cvxlayers.kernels``, factorizations in ``cvxlayers.ldl``.
"""
