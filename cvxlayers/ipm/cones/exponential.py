"""The exponential cone K = closure {(u, v, w): v exp(u / v) <= w, v > 0} inside the iteration.

The barrier of its dual K* = closure {u < 0, -u exp(v / u) <= e w} is (Nesterov 2012; Serrano 2015), with
l = log(-y3 / y1),

    f*(y) = -log psi - log(-y1) - log y3,    psi = y2 - y1 - y1 l.

Its Hessian is a sum of three squares with coefficients of their own size each. With a = (-l, 1, t) the gradient of psi,
t = -y1 / y3, and d1 = -u1 / y1, d3 = u3 / y3,

    u' f*'' u = (a'u / psi)^2 + (t y3 / psi) (d1 + d3)^2 + d1^2 + d3^2

because psi'' = (1 / y1) (1, 0, t) (1, 0, t)'; and d1^2 + d3^2 = ((d1 + d3)^2 + (d1 - d3)^2) / 2. Near the boundary,
where the coefficients tell the sizes 1 / psi^2, 1 / psi and 1 apart, the sum of them would keep only the largest.

The point z in the interior of K* with -f*'(z) = s has, with p the root of p + log(1 + p) = log(s3 / s2) - s1 / s2,

    z1 = -1 / (p s2),    z2 = (2 p - 1 + s1 / s2) / (p s2),    z3 = (1 + p) / (p s3).
"""

from __future__ import annotations

from typing import Any

from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.functions import log, log_of_one_plus
from cvxlayers.kernels.simd import maximum, minimum, noinline, splat, store

__all__ = ["CENTRE", "third_derivative", "dual_margin", "expand", "gradient", "margin", "conjugate_point"]

CENTRE = (-1.051383945322714, 0.556409619469370, 1.258967884768947)
"""The point with -f*'(y) = y."""

ROOT_STEPS = 4


@kernel
def margin(s1: Any, s2: Any, s3: Any) -> Any:
    """Positive inside K: the smallest of s2, s3 and log(s3 / s2) - s1 / s2. Outside it is not positive, or NaN."""
    return minimum(minimum(s2, s3), log(s3 / s2) - s1 / s2)


@kernel
def psi_of(y1: Any, y2: Any, y3: Any) -> Any:
    """psi, and l."""
    l = log(-(y3 / y1))  # noqa: E741 - the letter of the formula
    return y2 - y1 - y1 * l, l


@kernel
def dual_margin(y1: Any, y2: Any, y3: Any) -> Any:
    """Positive for points inside K*: the smallest of -y1, y3 and psi. Outside it is not positive, or NaN."""
    psi, _ = psi_of(y1, y2, y3)
    return minimum(minimum(-y1, y3), psi)


@kernel
def conjugate_point(s1: Any, s2: Any, s3: Any) -> Any:
    """The point z inside K* with -f*'(z) = s, for s inside K."""
    noinline()
    ratio = s1 / s2
    a = maximum(log(s3 / s2) - ratio, splat(s1, 1e-300))
    # p + log(1 + p) is concave, and both starting points lie to the left of the root: Newton's method climbs to it.
    p = maximum(0.5 * a, a - log_of_one_plus(a))
    for _ in range(ROOT_STEPS):
        p = maximum(p - (p + log_of_one_plus(p) - a) * (1.0 + p) / (2.0 + p), 0.5 * a)
    over = 1.0 / (p * s2)
    return -over, (2.0 * p - 1.0 + ratio) * over, (1.0 + p) / (p * s3)


@kernel
def gradient(y1: Any, y2: Any, y3: Any) -> Any:
    """f*'(y)."""
    psi, l = psi_of(y1, y2, y3)  # noqa: E741
    return l / psi - 1.0 / y1, -(1.0 / psi), (y1 / psi - 1.0) / y3


@kernel
def expand(V: Any, row: Any, y1: Any, y2: Any, y3: Any) -> None:
    """f*' and f*'' = sum of c_k t_k t_k' at y into 15 rows: the gradient, the coefficients, the vectors t_k."""
    noinline()
    zero = splat(V, 0.0)
    psi, l = psi_of(y1, y2, y3)  # noqa: E741
    over = 1.0 / psi
    g1, g2, g3 = gradient(y1, y2, y3)
    store(V, row, g1)
    store(V, row + 1, g2)
    store(V, row + 2, g3)
    store(V, row + 3, over * over)
    store(V, row + 4, 0.5 - y1 * over)
    store(V, row + 5, splat(V, 0.5))
    store(V, row + 6, -l)
    store(V, row + 7, splat(V, 1.0))
    store(V, row + 8, -(y1 / y3))
    for k in (9, 12):
        store(V, row + k, -1.0 / y1 if k == 9 else 1.0 / y1)
        store(V, row + k + 1, zero)
        store(V, row + k + 2, 1.0 / y3)


@kernel
def third_derivative(y1: Any, y2: Any, y3: Any, u1: Any, u2: Any, u3: Any, v1: Any, v2: Any, v3: Any) -> Any:
    """The third derivative f*'''[u, v], a vector."""
    noinline()
    # Of -log psi: -2 (a'u) (a'v) a / psi^3 + ((u'psi''v) a + (a'v) psi''u + (a'u) psi''v) / psi^2 - psi'''[u, v] / psi.
    psi, l = psi_of(y1, y2, y3)  # noqa: E741
    over, t = 1.0 / psi, -(y1 / y3)
    au = (u2 - l * u1 + t * u3) * over
    av = (v2 - l * v1 + t * v3) * over
    bu, bv = u1 + t * u3, v1 + t * v3
    along = bu * bv * over / y1 - 2.0 * au * av
    across = (av * bu + au * bv) / y1
    d3, e3 = u3 / y3, v3 / y3
    d1, e1 = u1 / y1, v1 / y1
    third1 = d3 * e3 - d1 * e1
    third3 = (d1 * e3 + e1 * d3 - 2.0 * d3 * e3) * (y1 / y3)
    r1 = over * (across - l * along - third1) - 2.0 * d1 * e1 / y1
    r2 = over * along
    r3 = over * (across * t + along * t - third3) - 2.0 * d3 * e3 / y3
    return r1, r2, r3
