"""Attention as optimization: each output is the solution of a problem that queries, keys and values pose."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from cvxlayers.errors import OptionError, ParameterError
from cvxlayers.layer.failure import check_policy
from cvxlayers.nodes.attention.entmax import entmax
from cvxlayers.nodes.robust.robust_mean import PENALTIES, RobustMeanRule
from cvxlayers.nodes.rules.arguments import check_dimensions, flatten_batch, positive
from cvxlayers.nodes.rules.call_result import NodeCall, Reporting
from cvxlayers.nodes.transport.transport import transport_plan

__all__ = ["DeclarativeAttention", "RobustMean", "declarative_attention", "robust_mean", "sinkhorn_weights"]

MAPS = ("softmax", "sparsemax", "entmax", "sinkhorn")


def sinkhorn_weights(
    scores: Tensor,
    r: Tensor | None = None,
    c: Tensor | None = None,
    *,
    tolerance: float | None = None,
    max_iterations: int = 200,
    on_failure: str = "raise",
) -> Tensor:
    """Attention weights whose rows sum to one and whose columns all receive the same: softmax in both directions.

    The weights A minimize -<A, scores> + sum A log A subject to A 1 = 1 and A' 1 = Q / K (or other masses).

    Parameters
    ----------
    scores : (..., Q, K) tensor
        Finite.
    r : (..., Q) tensor, optional
        What the rows sum to; default: 1 each.
    c : (..., K) tensor, optional
        What the columns sum to; default: Q / K each. Of the same total as r.
    tolerance, max_iterations, on_failure
        See ``cvxlayers.nodes.optimal_transport``.

    Returns
    -------
    (..., Q, K) tensor

    Raises
    ------
    ParameterError, SolveError
        See ``cvxlayers.nodes.optimal_transport``. Source: Sander, Ablin, Blondel, Peyre 2022.

    Examples
    --------
    >>> A = sinkhorn_weights(torch.randn(2, 4, 6, dtype=torch.float64))
    >>> bool((A.sum(-1) - 1).abs().max() < 1e-8), bool((A.sum(-2) - 4 / 6).abs().max() < 1e-8)
    (True, True)
    """
    check_policy(on_failure)
    return _sinkhorn(NodeCall(on_failure, {"tolerance": tolerance, "most": max_iterations}), scores, r, c)


def _sinkhorn(call: NodeCall, scores: Any, r: Tensor | None = None, c: Tensor | None = None) -> Tensor:
    check_dimensions("scores", scores, "Q, K", 2)
    Q, K = scores.shape[-2:]
    r = scores.new_ones(Q) if r is None else r
    c = scores.new_full((K,), Q / K) if c is None else c
    call = NodeCall(call.on_failure, {**call.settings, "balance": False}, call.keeper)
    return transport_plan(call, -scores, r, c, 1.0)


def robust_mean(
    weights: Tensor,
    values: Tensor,
    alpha: float | Tensor = 1.0,
    penalty: str = "pseudo-huber",
    *,
    tolerance: float | None = None,
    max_iterations: int = 100,
    on_failure: str = "raise",
) -> Tensor:
    """The vectors y_q that minimize sum_k weights_qk phi(|y_q - values_k|; alpha).

    Parameters
    ----------
    weights : (..., Q, K) tensor
        Nonnegative; only their ratios within a row count.
    values : (..., K, C) tensor
    alpha : float or (...) tensor
        The distance from which on a value counts as an outlier, positive, in the units of the values. Default 1.
    penalty : "pseudo-huber", "huber" or "welsch"
        The last is not convex: the minimum that is reached from the mean with the first is returned.
    tolerance : float, optional
        Of the gradient, relative to the sum of the sizes of its terms. Default 1e-10, in single precision 1e-5.
    max_iterations : int
        Default 100.
    on_failure : "raise", "nan" or "zero_grad"
        What becomes of elements without an isolated minimum; see ``cvxlayers.nodes.optimal_transport``.

    Returns
    -------
    (..., Q, C) tensor
        Differentiable in weights, values and alpha. Source: Gould, Hartley, Campbell 2019, section 5.1.

    Raises
    ------
    ParameterError
        Wrong shapes or dtypes, an alpha that is not positive, NaN or infinite entries.
    OptionError
        An unknown penalty or policy.
    SolveError
        With ``on_failure="raise"``, when some element has no isolated minimum.

    Examples
    --------
    >>> values = torch.tensor([[0.0], [0.1], [-0.1], [100.0]])
    >>> robust_mean(torch.full((1, 4), 0.25), values, alpha=0.1, penalty="huber")
    tensor([[0.0500]])
    """
    _check_penalty(penalty)
    check_policy(on_failure)
    call = NodeCall(on_failure, {"tolerance": tolerance, "most": max_iterations})
    return _robust_mean(call, weights, values, alpha, penalty)


class RobustMean(Reporting):
    """``robust_mean`` as a module with fixed options; ``module.info`` is the report of this thread's last call.

    Parameters
    ----------
    alpha, penalty, tolerance, max_iterations, on_failure
        See ``robust_mean``. An alpha that is a ``torch.nn.Parameter`` is learned.

    Examples
    --------
    >>> node = RobustMean(alpha=0.1, penalty="huber")
    >>> node(torch.ones(1, 3), torch.tensor([[0.0], [0.2], [9.0]]))
    tensor([[0.2000]])
    """

    def __init__(
        self,
        alpha: float | Tensor = 1.0,
        penalty: str = "pseudo-huber",
        *,
        tolerance: float | None = None,
        max_iterations: int = 100,
        on_failure: str = "raise",
    ) -> None:
        super().__init__()
        _check_penalty(penalty)
        check_policy(on_failure)
        self.alpha, self.penalty, self.on_failure = alpha, penalty, on_failure
        self.settings = {"tolerance": tolerance, "most": max_iterations}

    def forward(self, weights: Tensor, values: Tensor) -> Tensor:
        """The robust means (..., Q, C) for weights (..., Q, K) and values (..., K, C); see ``robust_mean``."""
        return _robust_mean(
            NodeCall(self.on_failure, self.settings, self._local), weights, values, self.alpha, self.penalty
        )


def _robust_mean(call: NodeCall, weights: Any, values: Any, alpha: Any, penalty: str) -> Tensor:
    check_dimensions("weights", weights, "Q, K", 2)
    check_dimensions("values", values, "K, C", 2)
    if weights.shape[-1] != values.shape[-2]:
        raise ParameterError(
            f"values: got shape {tuple(values.shape)}, expected (..., {weights.shape[-1]}, C): one for each column of "
            "the weights."
        )
    alpha = positive("alpha", alpha, values, alpha.shape if isinstance(alpha, Tensor) else ())
    alpha = alpha if isinstance(alpha, Tensor) else values.new_full((), alpha)
    flat, batch = flatten_batch(("weights", "values", "alpha"), (weights, values, alpha), (2, 2, 0))
    tolerance = call.settings["tolerance"] or (1e-10 if values.dtype == torch.float64 else 1e-5)
    call = NodeCall(call.on_failure, {**call.settings, "tolerance": tolerance}, call.keeper)
    work = torch.promote_types(values.dtype, torch.float32)  # LAPACK knows no half precision
    (y,) = _RULES[penalty](call, *(part.to(work) for part in flat))
    return y.to(values.dtype).reshape(*batch, *y.shape[1:])


_RULES = {name: RobustMeanRule(name) for name in PENALTIES}


def _check_penalty(penalty: Any) -> None:
    if penalty not in PENALTIES:
        raise OptionError(f"penalty: expected one of {', '.join(map(repr, PENALTIES))}, got {penalty!r}.")


class DeclarativeAttention(Reporting):
    """Attention of queries over keys and values, with a choice of the problem behind the weights and the mean.

    The weights of a query are ``map`` of its scaled scores q'k; the output is their mean of the values or, with a
    ``penalty``, their robust mean.

    Parameters
    ----------
    map : "softmax", "sparsemax", "entmax", "sinkhorn", or a callable
        From scores (..., Q, K) to weights (..., Q, K). Default "softmax".
    order : float
        The alpha of entmax. Default 1.5.
    penalty : None, "pseudo-huber", "huber" or "welsch"
        None, the default, is the squared distance, hence the ordinary mean.
    alpha : float or tensor
        Of the penalty; see ``robust_mean``. A ``torch.nn.Parameter`` is learned. Default 1.
    scale : float, optional
        Of the scores; default: one over the square root of the length of a query.
    tolerance, max_iterations
        Of the iterative parts; see ``cvxlayers.nodes.optimal_transport`` and ``robust_mean``.
    on_failure : "raise", "nan" or "zero_grad"
        For the elements of the batch without a verified solution; ``module.info`` is the report of this thread's last
        iterative part, None without one.

    Raises
    ------
    OptionError
        An unknown map, penalty or policy.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> attention = DeclarativeAttention("entmax", penalty="huber", alpha=0.5)
    >>> q, k, v = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 4)
    >>> attention(q, k, v).shape
    torch.Size([2, 3, 4])
    """

    def __init__(
        self,
        map: str | Callable[[Tensor], Tensor] = "softmax",
        *,
        order: float = 1.5,
        penalty: str | None = None,
        alpha: float | Tensor = 1.0,
        scale: float | None = None,
        tolerance: float | None = None,
        max_iterations: int = 200,
        on_failure: str = "raise",
    ) -> None:
        super().__init__()
        if map not in MAPS and not callable(map):
            raise OptionError(f"map: expected one of {', '.join(MAPS)}, or a callable, got {map!r}.")
        if penalty is not None:
            _check_penalty(penalty)
        check_policy(on_failure)
        self.map, self.order, self.penalty, self.alpha, self.scale = map, order, penalty, alpha, scale
        self.on_failure, self.settings = on_failure, {"tolerance": tolerance, "most": max_iterations}

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None) -> Tensor:
        """The outputs (..., Q, C) for queries (..., Q, D), keys (..., K, D) and values (..., K, C).

        Parameters
        ----------
        mask : (..., Q, K) bool tensor, optional
            False leaves a pair out; not with "sinkhorn", whose columns must all receive their share.

        Raises
        ------
        ParameterError, SolveError
            As the parts raise them.
        """
        scores = self._scores(queries, keys)
        if mask is not None:
            scores = scores.masked_fill(~self._mask(mask, scores), -math.inf)
        A = self.weights(scores)
        if self.penalty is None:
            return A @ values
        return _robust_mean(self._call(), A, values, self.alpha, self.penalty)

    def weights(self, scores: Tensor) -> Tensor:
        """The weights (..., Q, K) for scores (..., Q, K)."""
        if self.map == "sinkhorn":
            return _sinkhorn(self._call(), scores)
        if not isinstance(self.map, str):
            return self.map(scores)
        return entmax(scores, {"softmax": 1.0, "sparsemax": 2.0}.get(self.map, self.order))

    def _call(self) -> NodeCall:
        return NodeCall(self.on_failure, self.settings, self._local)

    def _scores(self, queries: Any, keys: Any) -> Tensor:
        check_dimensions("queries", queries, "Q, D", 2)
        check_dimensions("keys", keys, "K, D", 2)
        if keys.shape[-1] != queries.shape[-1] or keys.dtype != queries.dtype:
            raise ParameterError(
                f"keys: got shape {tuple(keys.shape)} of {keys.dtype}, expected (..., K, {queries.shape[-1]}) of "
                f"{queries.dtype}, like the queries."
            )
        scale = 1 / math.sqrt(queries.shape[-1]) if self.scale is None else self.scale
        return scale * queries @ keys.mT

    def _mask(self, mask: Any, scores: Tensor) -> Tensor:
        if self.map == "sinkhorn":
            raise OptionError('mask: got one with map="sinkhorn", whose columns all receive their share; leave it.')
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise ParameterError(f"mask: got {kind}, expected a bool tensor that broadcasts to {tuple(scores.shape)}.")
        return mask


def declarative_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    mask: Tensor | None = None,
    map: str | Callable[[Tensor], Tensor] = "softmax",
    **options: Any,
) -> Tensor:
    """Attention as a function; the options are those of ``DeclarativeAttention``.

    Parameters
    ----------
    queries, keys, values : (..., Q, D), (..., K, D) and (..., K, C) tensors
    mask : (..., Q, K) bool tensor, optional
        False leaves a pair out.
    map, **options
        See ``DeclarativeAttention``.

    Returns
    -------
    (..., Q, C) tensor

    Raises
    ------
    OptionError, ParameterError, SolveError
        See ``DeclarativeAttention``.

    Examples
    --------
    >>> q, k, v = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 5, 4)
    >>> ours = declarative_attention(q, k, v)
    >>> bool(torch.allclose(ours, torch.nn.functional.scaled_dot_product_attention(q, k, v), atol=1e-6))
    True
    """
    return DeclarativeAttention(map, **options)(queries, keys, values, mask)
