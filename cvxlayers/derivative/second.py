"""Second derivatives of the solution map: its derivative, differentiated once more by the systems that it solves.

With z = (x, v), y = Proj_{K*}(v), D its derivative at v and D2[a, b] its second derivative (so that D changes by
D2[dv, .] when v moves by dv), the optimality residual R(z; P, q, A, b) of ``exact`` is linear in the values and bends
in v alone. Differentiating it twice, along values d1 and d2 with tangents (dx1, dv1, dy1 = D dv1) and (dx2, dv2, dy2),

    J (d2x, d2v) = -(dP1 dx2 + dP2 dx1 + dA1'dy2 + dA2'dy1 + A'D2[dv1, dv2],  dA1 dx2 + dA2 dx1 + D2[dv1, dv2])
    d2y = D d2v + D2[dv1, dv2].

Backward, the multipliers (rx, rv) of cotangents (gx, gy) solve J'(rx, rv) = (gx, D gy), where
J' = [[P, A'], [D A, D - I]]. When the values move along d1 they change by

    J'(rx', rv') = (-dP1 rx - dA1'rv,  D2[dv1, h] - D dA1 rx),    h = gy - A rx - rv,

which is an adjoint system again, of the cotangents (-dP1 rx - dA1'rv, D2[dv1, h] - dA1 rx, -D2[dv1, h]) of x, y and s.
The cotangents of the values are bilinear in (rx, rv) and (x, y) (see ``pairing``), so theirs follow from the rule of
products. Sources: the second-order implicit function theorem; the residual and J are those of Agrawal, Barratt, Boyd,
Busseti, Moursi 2019 and of Healey, Nobel, Boyd 2025. On zero and nonnegative rows D2 is zero; on second-order cones see
``cones.second_order``.

<gx, d2x> + <gy, d2y> is a symmetric bilinear form in d1 and d2, and the pairing of d2 with the change of the cotangents
along d1 is the same number. So one function, ``vjp`` below, serves forward over reverse and reverse over reverse.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cvxlayers.cones.projection import dual_second_derivative
from cvxlayers.derivative.base import Linearization
from cvxlayers.derivative.pairing import cotangents, right_hand_side
from cvxlayers.program.solution import Solution
from cvxlayers.program.structure import Array, Structure, Values

__all__ = ["SecondDerivative"]


@dataclass(frozen=True)
class SecondDerivative:
    """The second derivative of (P, q, A, b) -> (x, y) at the solutions of one batch.

    Parameters
    ----------
    structure, values, solution
        Of the batch, all elements solved.
    linearization : Linearization
        The first derivative there, which has ``multipliers``. Its factors are used again, and its report shows the
        residuals of these systems, too.

    Examples
    --------
    minimize p x^2 / 2 - x has the solution 1 / p, whose second derivative is 2 / p^3:

    >>> from cvxlayers.cones import Cones
    >>> from cvxlayers.derivative import exact_derivative
    >>> from cvxlayers.program.structure import Pattern
    >>> one, none = Pattern.of(np.zeros(1, int), np.zeros(1, int), (1, 1)), np.zeros(0, int)
    >>> structure = Structure(P=one, A=Pattern.of(none, none, (0, 1)), cones=Cones())
    >>> rows = np.zeros((0, 1))
    >>> values = Values(P=np.array([[2.0]]), q=-np.ones((1, 1)), A=rows, b=rows)
    >>> solution = Solution(np.array([[0.5]]), rows, rows, np.zeros(1, np.int8), np.zeros(1, int), np.full(1, ""))
    >>> first = exact_derivative(structure, 1).linearize(values, solution)
    >>> move = Values(P=np.ones((1, 1)), q=np.zeros((1, 1)), A=rows, b=rows)
    >>> second = SecondDerivative(structure, values, solution, first)
    >>> second.jvp(move, move)[0].round(9), second.vjp(np.ones((1, 1)), rows, move)[1].P.round(9)
    (array([[0.25]]), array([[0.25]]))
    """

    structure: Structure
    values: Values
    solution: Solution
    linearization: Linearization

    def vjp(self, gx: Array, gy: Array, dvalues: Values) -> tuple[Values, Values]:
        """The cotangents of the values for cotangents of x (n, B) and y (m, B), and how they change along dvalues.

        Raises
        ------
        DerivativeError
            There are cones without a second derivative, or the first derivative has none.
        """
        structure, solution, A = self.structure, self.solution, self.structure.A
        rx, rv = self.linearization.multipliers(gx, gy)
        dx, dy, ds = self.linearization.jvp(dvalues)
        h = gy - A.times(self.values.A, rx) - rv
        bent = self._bent(dy - ds, h)
        f = -structure.P_times(dvalues.P, rx) - A.transpose_times(dvalues.A, rv)
        rx2, rv2 = self.linearization.multipliers(f, bent - A.times(dvalues.A, rx), -bent)
        change = cotangents(structure, rx2, rv2, solution.x, solution.y)
        moved = cotangents(structure, rx, rv, dx, dy)
        return (
            cotangents(structure, rx, rv, solution.x, solution.y),
            Values(change.P + moved.P, change.q, change.A + moved.A, change.b),
        )

    def jvp(self, first: Values, second: Values) -> tuple[Array, Array]:
        """The second derivatives of x and y along two tangents of the values.

        Raises
        ------
        DerivativeError
            As for ``vjp``.
        """
        structure, linearization = self.structure, self.linearization
        if not linearization.twice:
            linearization.multipliers(np.zeros_like(self.solution.x), np.zeros_like(self.solution.y))  # says why not
        (dx1, dy1, ds1), (dx2, dy2, ds2) = linearization.jvp(first), linearization.jvp(second)
        bent = self._bent(dy1 - ds1, dy2 - ds2)
        nothing = np.zeros_like(self.solution.x), np.zeros_like(self.solution.y)
        f1, g1 = right_hand_side(structure, Values(first.P, nothing[0], first.A, nothing[1]), dx2, dy2)
        f2, g2 = right_hand_side(structure, Values(second.P, nothing[0], second.A, nothing[1]), dx1, dy1)
        f, g = f1 + f2 - structure.A.transpose_times(self.values.A, bent), g1 + g2 - bent
        P, A = (np.broadcast_to(np.zeros((part.shape[0], 1)), part.shape) for part in (first.P, first.A))
        # The systems solve for the change of y within the range of D, which is what is wanted beside D2.
        d2x, d2y, _ = linearization.jvp(Values(P, -f, A, g))
        return d2x, d2y + bent

    def _bent(self, a: Array, b: Array) -> Array:
        return dual_second_derivative(self.structure.cones, self.solution.y - self.solution.s, a, b)
