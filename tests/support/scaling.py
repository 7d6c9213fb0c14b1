"""The same problem in other units, and what algebra says of its answer.

With variables in units d (n), rows in units r (m, the rows of a curved cone share theirs) and the objective in units c:

    P^ = c D P D,  q^ = c D q,  A^ = R A D,  b^ = R b;    x^ = x / d,  y^ = c y / r,  s^ = r s

so that cotangents of x and y become d and r / c times themselves, and the cotangents of the values of the rescaled
problem give those of the first one when each is multiplied by the factor of its value.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from cvxlayers.cones import Cones
from cvxlayers.program.affine import AffineMap
from cvxlayers.program.compiled import CompiledProblem, Feature, OutputSpec, ParameterSpec
from cvxlayers.program.structure import Array, Structure, Values

__all__ = ["Posed", "Units", "as_parameters", "common_units", "factors", "random_units", "rescaled", "rows_of"]


@dataclass(frozen=True)
class Units:
    """Units of variables (n, B), rows (m, B) and the objective (B,); to be multiplied with the numbers."""

    d: Array
    r: Array
    c: Array


@dataclass(frozen=True)
class Posed:
    """The standard form with all of P, q, A and b as one parameter, theta; its outputs are x and y."""

    compiled: CompiledProblem

    @property
    def structure(self) -> Structure:
        return self.compiled.structure

    def theta(self, values: Values) -> Array:
        """(B, k), as the layer takes it."""
        return np.concatenate([np.broadcast_to(part, (part.shape[0], values.batch)) for part in values]).T

    def values(self, theta: Array) -> Values:
        """The inverse: (B, k) -> values; of cotangents as well, as the maps only copy."""
        sizes = [self.structure.P.nnz, self.structure.n, self.structure.A.nnz, self.structure.m]
        return Values(*np.split(theta.T, np.cumsum(sizes)[:-1]))


def as_parameters(structure: Structure) -> Posed:
    """A compiled problem with this structure whose one parameter holds every value."""
    n, m = structure.n, structure.m
    sizes = [structure.P.nnz, n, structure.A.nnz, m]
    k, starts = sum(sizes), np.cumsum([0, *sizes])
    maps = [AffineMap(_copied(start, size, k), np.zeros(size)) for start, size in zip(starts, sizes, strict=False)]
    varying = frozenset(name for name, size in zip("PqAb", sizes, strict=True) if size)
    compiled = CompiledProblem(
        Structure(structure.P, structure.A, structure.cones, varying),
        (ParameterSpec("theta", (k,)),),
        (OutputSpec("x", (n,), "primal", 0, n), OutputSpec("y", (m,), "dual", n, n + m)),
        (Feature(0, "identity", 0, k),),
        *maps,
        AffineMap(sp.csr_array((1, k)), np.zeros(1)),
        sp.csr_array(sp.vstack([sp.eye_array(n), sp.csr_array((m, n))])),
        sp.csr_array(sp.vstack([sp.csr_array((n, m)), sp.eye_array(m)])),
    )
    return Posed(compiled)


def _copied(start: int, size: int, k: int) -> sp.csr_array:
    return sp.csr_array((np.ones(size), (np.arange(size), start + np.arange(size))), shape=(size, k))


def rows_of(cones: Cones, each: Array) -> Array:
    """One number for each row of (m, B), which the rows of a curved cone share: their first one's."""
    shared = each.copy()
    for block in cones.blocks:
        if block.kind not in ("zero", "nonneg"):
            shared[block.start : block.stop] = each[block.start]
    return shared


def random_units(rng: np.random.Generator, structure: Structure, batch: int, decades: int) -> Units:
    """Powers of ten, up to so many decades each way: for each variable, each row or curved cone, and the objective."""

    def powers(*shape: int) -> Array:
        return 10.0 ** rng.integers(-decades, decades + 1, shape)

    r = rows_of(structure.cones, powers(structure.m, batch))
    return Units(powers(structure.n, batch), r, powers(batch))


def common_units(structure: Structure, exponents: Array, quadratic: bool) -> Units:
    """One unit for all of x, b and s, (B,) powers of ten; q follows it where the objective has its own square in it.

    Dollars become cents: x^ = u x, b^ = u b, s^ = u s with A as it is. With ``quadratic`` P is as it is, too, and
    q^ = u q; otherwise q and the objective are, and P^ = P / u.
    """
    u = 10.0 ** np.asarray(exponents, dtype=float)
    one = np.ones((1, u.size))
    c = u**2 if quadratic else u
    return Units(np.repeat(one / u, structure.n, axis=0), np.repeat(one * u, structure.m, axis=0), c)


def factors(structure: Structure, units: Units) -> Values:
    """What each value of the standard form is multiplied by."""
    P, A = structure.P, structure.A
    return Values(
        units.c * units.d[P.rows] * units.d[P.columns], units.c * units.d, units.r[A.rows] * units.d[A.columns], units.r
    )


def rescaled(structure: Structure, values: Values, units: Units) -> Values:
    """The values in other units: of one problem in many, or of as many problems, each in its own."""
    return Values(*(part * factor for part, factor in zip(values, factors(structure, units), strict=True)))
