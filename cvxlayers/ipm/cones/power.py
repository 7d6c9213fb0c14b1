"""The power cone K = {(u, v, w): u^alpha v^beta >= |w|, u, v >= 0}, beta = 1 - alpha, inside the iteration.

The barrier of its dual K* = {(u / alpha)^alpha (v / beta)^beta >= |w|} (Roy and Xiao 2022) is

    f*(y) = -log psi - beta log y1 - alpha log y2,    psi = phi - y3^2,
    phi = (y1 / alpha)^(2 alpha) (y2 / beta)^(2 beta).

With rho = phi / psi >= 1, d1 = u1 / y1, d2 = u2 / y2, sigma = 2 (alpha d1 + beta d2) and delta = d1 - d2 its Hessian is

    u' f*'' u = (sigma - y3 zeta / psi)^2 / 2 + rho zeta^2 / (2 psi) + 2 rho alpha beta delta^2
              + sigma^2 / 4 + (beta - alpha) sigma delta + (alpha^3 + beta^3) delta^2,    zeta = 2 u3 - y3 sigma,

and by completing squares, first for zeta and delta, then for sigma, a sum of three squares with positive coefficients:

    c1 = (2 rho - 1) / (2 psi)  of  zeta - y3 sigma / (2 rho - 1),
    c3 = 1 + (2 rho - 3) alpha beta  of  delta + (beta - alpha) sigma / (2 c3),
    c2 = 3 / 4 - (rho - 1) / (4 rho - 2) - (beta - alpha)^2 / (4 c3) >= 1 / 4  of  sigma.

The point z in the interior of K* with -f*'(z) = s has, with e = 1 / rho = 1 - exp(-h) and h > 0 the root of

    h + 2 alpha log(1 + beta e / (2 alpha)) + 2 beta log(1 + alpha e / (2 beta)) = 2 log(s1^alpha s2^beta / |s3|),

z1 = (2 alpha + beta e) / (e s1), z2 = (2 beta + alpha e) / (e s2), z3 = -2 exp(-h) / (e s3).
"""

from __future__ import annotations

from typing import Any

from cvxlayers.kernels.decorators import kernel
from cvxlayers.kernels.functions import exp, log, log_of_one_plus, one_minus_exp_neg
from cvxlayers.kernels.simd import absolute, maximum, minimum, noinline, select, splat, store

__all__ = ["third_derivative", "dual_margin", "expand", "gradient", "margin", "conjugate_point"]

SMALLEST = 1e-100
"""|s3| is not taken to be smaller than this."""

ROOT_STEPS = 6


@kernel
def margin(alpha: Any, s1: Any, s2: Any, s3: Any) -> Any:
    """Positive inside K: the smallest of s1, s2, 2 log(s1^alpha s2^beta / |s3|). Outside it is not positive, or NaN."""
    size = maximum(absolute(s3), splat(s3, SMALLEST))
    room = 2.0 * (alpha * log(s1) + (1.0 - alpha) * log(s2) - log(size))
    return minimum(minimum(s1, s2), room)


@kernel
def root_of_phi(alpha: Any, y1: Any, y2: Any) -> Any:
    """The square root of phi."""
    beta = 1.0 - alpha
    return exp(alpha * log(y1 / alpha) + beta * log(y2 / beta))


@kernel
def dual_margin(alpha: Any, y1: Any, y2: Any, y3: Any) -> Any:
    """Positive for points inside K*. Outside it is not positive, or NaN."""
    return minimum(minimum(y1, y2), root_of_phi(alpha, y1, y2) - absolute(y3))


@kernel
def parts(alpha: Any, y1: Any, y2: Any, y3: Any) -> Any:
    """psi and rho."""
    root = root_of_phi(alpha, y1, y2)
    psi = (root - absolute(y3)) * (root + absolute(y3))
    return psi, root / psi * root


@kernel
def conjugate_point(alpha: Any, s1: Any, s2: Any, s3: Any) -> Any:
    """The point z inside K* with -f*'(z) = s, for s inside K."""
    noinline()
    beta = 1.0 - alpha
    size = maximum(absolute(s3), splat(s3, SMALLEST))
    room = maximum(2.0 * (alpha * log(s1) + beta * log(s2) - log(size)), splat(s3, 1e-300))
    by_alpha, by_beta = 0.5 * beta / alpha, 0.5 * alpha / beta
    # The left side is concave in h, with slope 2 at 0: Newton's method climbs from half the right side to the root.
    h = 0.5 * room
    for _ in range(ROOT_STEPS):
        e = one_minus_exp_neg(h)
        value = h + 2.0 * (alpha * log_of_one_plus(by_alpha * e) + beta * log_of_one_plus(by_beta * e))
        slope = 1.0 + (1.0 - e) * (beta / (1.0 + by_alpha * e) + alpha / (1.0 + by_beta * e))
        h = maximum(h - (value - room) / slope, 0.5 * room)
    e = one_minus_exp_neg(h)
    signed = select(splat(s3, 0.0), s3, -size, size)
    return (2.0 * alpha + beta * e) / (e * s1), (2.0 * beta + alpha * e) / (e * s2), -2.0 * exp(-h) / (e * signed)


@kernel
def gradient(alpha: Any, y1: Any, y2: Any, y3: Any) -> Any:
    """f*'(y)."""
    beta = 1.0 - alpha
    psi, rho = parts(alpha, y1, y2, y3)
    return -(2.0 * alpha * rho + beta) / y1, -(2.0 * beta * rho + alpha) / y2, 2.0 * y3 / psi


@kernel
def expand(alpha: Any, V: Any, row: Any, y1: Any, y2: Any, y3: Any) -> None:
    """f*' and f*'' = sum of c_k t_k t_k' at y into 15 rows: the gradient, the coefficients, the vectors t_k."""
    noinline()
    beta = 1.0 - alpha
    psi, rho = parts(alpha, y1, y2, y3)
    g1, g2, g3 = gradient(alpha, y1, y2, y3)
    store(V, row, g1)
    store(V, row + 1, g2)
    store(V, row + 2, g3)
    twice = 2.0 * rho - 1.0
    slant = 0.5 * (beta - alpha)
    by_delta = 1.0 + (2.0 * rho - 3.0) * alpha * beta
    store(V, row + 3, 0.5 * twice / psi)
    store(V, row + 4, 0.75 - 0.5 * (rho - 1.0) / twice - slant * slant / by_delta)
    store(V, row + 5, by_delta)
    sigma1, sigma2 = 2.0 * alpha / y1, 2.0 * beta / y2
    lean = -2.0 * y3 * rho / twice
    store(V, row + 6, lean * sigma1)
    store(V, row + 7, lean * sigma2)
    store(V, row + 8, splat(V, 2.0))
    store(V, row + 9, sigma1)
    store(V, row + 10, sigma2)
    store(V, row + 11, splat(V, 0.0))
    lean = slant / by_delta
    store(V, row + 12, 1.0 / y1 + lean * sigma1)
    store(V, row + 13, lean * sigma2 - 1.0 / y2)
    store(V, row + 14, splat(V, 0.0))


@kernel
def third_derivative(
    alpha: Any, y1: Any, y2: Any, y3: Any, u1: Any, u2: Any, u3: Any, v1: Any, v2: Any, v3: Any
) -> Any:
    """The third derivative f*'''[u, v], a vector."""
    noinline()
    # As for the exponential cone: of -log psi, -2 (a'u) (a'v) a / psi^3 + ((u'psi''v) a + (a'v) psi''u + (a'u) psi''v)
    # / psi^2 - psi'''[u, v] / psi with a = psi'. Every derivative of phi is phi over powers of y1 and y2.
    beta = 1.0 - alpha
    psi, rho = parts(alpha, y1, y2, y3)
    over = 1.0 / psi
    d1, d2, e1, e2 = u1 / y1, u2 / y2, v1 / y1, v2 / y2
    p, q = 2.0 * alpha, 2.0 * beta
    a1, a2, a3 = p * rho / y1, q * rho / y2, -2.0 * y3 * over
    au, av = (p * d1 + q * d2) * rho + a3 * u3, (p * e1 + q * e2) * rho + a3 * v3
    pp, pq, qq = p * (p - 1.0), p * q, q * (q - 1.0)
    u_1, u_2, u_3 = (pp * d1 + pq * d2) * rho / y1, (pq * d1 + qq * d2) * rho / y2, -2.0 * u3 * over
    v_1, v_2, v_3 = (pp * e1 + pq * e2) * rho / y1, (pq * e1 + qq * e2) * rho / y2, -2.0 * v3 * over
    along = u_1 * v1 + u_2 * v2 + u_3 * v3 - 2.0 * au * av
    mixed = d1 * e2 + d2 * e1
    third1 = pp * (p - 2.0) * d1 * e1 + pq * ((p - 1.0) * mixed + (q - 1.0) * d2 * e2)
    third2 = qq * (q - 2.0) * d2 * e2 + pq * ((q - 1.0) * mixed + (p - 1.0) * d1 * e1)
    r1 = along * a1 + av * u_1 + au * v_1 - (third1 * rho + 2.0 * beta * d1 * e1) / y1
    r2 = along * a2 + av * u_2 + au * v_2 - (third2 * rho + 2.0 * alpha * d2 * e2) / y2
    r3 = along * a3 + av * u_3 + au * v_3
    return r1, r2, r3
