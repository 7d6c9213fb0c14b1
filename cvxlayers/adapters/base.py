"""What the layers of all frameworks have in common; each adds only its conversions and its rules of differentiation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cvxlayers.errors import ParameterError
from cvxlayers.layer.layer import Layer
from cvxlayers.layer.packing import refuse_enlarged
from cvxlayers.layer.report import Info
from cvxlayers.program.compiled import CompiledProblem, ParameterSpec
from cvxlayers.program.summary import Rows, Summarized

if TYPE_CHECKING:
    from cvxpy import Parameter, Problem, Variable

__all__ = ["Adapter", "batch_shape", "leading_shapes"]

Shape = TypeVar("Shape", bound=Sequence[Any])


class Adapter(Summarized):
    """A framework's layer around a NumPy layer, ``core``; to be inherited from before the framework's own base class.

    ``info`` is the report of this thread's last call. In compiled code a framework may run the solver in a thread of
    its own; the report is then that thread's.
    """

    core: Layer

    def __init__(
        self,
        problem: Problem,
        parameters: Sequence[Parameter] | None = None,
        variables: Sequence[Variable] | None = None,
        solver: str | None = None,
        gp: bool = False,
        verbose: bool = False,
        solver_args: Mapping[str, Any] | None = None,
        *,
        on_failure: str = "raise",
        check_parameters: bool = True,
        polish: bool | None = None,
        smoothing: float | None = None,
        broadcast: bool = False,
    ) -> None:
        """Compile a problem into a layer.

        Parameters
        ----------
        problem : cvxpy.Problem
            A DPP problem (``cvxlayers check FILE`` tells); with ``gp=True`` a log-log convex one.
        parameters : sequence of cvxpy.Parameter, optional
            All parameters of the problem, in the order in which tensors are handed in. Default: the problem's order.
        variables : sequence of cvxpy.Variable, optional
            What is returned, in this order: variables, or dual variables of constraints
            (``constraint.dual_variables[0]``). Default: all variables, in the problem's order.
        solver : str, optional
            Name of a solver (``cvxlayers doctor`` lists them); default: the best installed one that takes the problem.
        gp : bool
            Whether the problem is a log-log convex program.
        verbose : bool
            Whether the solver prints its log.
        solver_args : mapping, optional
            Options for every call; those of cvxpylayers are understood, and the solver's own.
        on_failure : "raise", "nan" or "zero_grad"
            What becomes of batch elements without a verified solution; see ``cvxlayers.Layer``.
        check_parameters : bool
            Whether values are checked against their parameters' attributes (PSD, nonneg, ...).
        polish : bool, optional
            Whether Newton steps sharpen each solution; see ``cvxlayers.Layer``.
        smoothing : float, optional
            Gradients smoothed along the central path, useful at vertices and kinks; see ``cvxlayers.Layer``.
        broadcast : bool
            Whether the parameters' batch dimensions may combine to a batch that none of them has by itself, as (5, 1)
            and (1, 7) do to (5, 7); otherwise that is an error.

        Raises
        ------
        CompileError, EngineError, OptionError
            See ``cvxlayers.errors``.
        """
        super().__init__()
        self._adopt(
            Layer.from_problem(
                problem, parameters, variables, solver, gp, solver_args,
                verbose=verbose, on_failure=on_failure, check_parameters=check_parameters,
                polish=polish, smoothing=smoothing, broadcast=broadcast,
            )
        )  # fmt: skip

    @classmethod
    def from_compiled(cls, compiled: CompiledProblem, **options: Any) -> Self:
        """A layer of an already compiled problem; the options are those of ``cvxlayers.Layer``."""
        layer = cls.__new__(cls)
        super(Adapter, layer).__init__()
        layer._adopt(Layer(compiled, **options))
        return layer

    def _adopt(self, core: Layer) -> None:
        self.core = core

    def summary_rows(self) -> Rows:
        return self.core.summary_rows()

    @property
    def compiled(self) -> CompiledProblem:
        """The problem in standard form."""
        return self.core.compiled

    @property
    def info(self) -> Info | None:
        """The report of this thread's last call: statuses, residuals, engines, seconds; None before the first."""
        return self.core.info

    def _convert(self, values: Sequence[Any], convert: Callable[[Any], Any]) -> list[Any]:
        """The framework's tensors of the parameters' values, one for each.

        Raises
        ------
        ParameterError
            There are more or fewer than parameters, or one is nothing that the framework takes for a tensor.
        """
        specs = self.compiled.parameters
        if len(values) != len(specs):
            names = ", ".join(f"'{spec.name}'" for spec in specs) or "none"
            raise ParameterError(
                f"parameters: got {len(values)} values, expected {len(specs)}, one for each of {names}, in this order."
            )
        return [_converted(value, spec, convert) for value, spec in zip(values, specs, strict=True)]

    def _refuse_enlarged(self, values: Sequence[Any]) -> None:
        """Check ``broadcast`` on what the caller sees: further down vmap's axes are dimensions of the batch, too."""
        if not self.core.broadcast:
            refuse_enlarged(self.compiled.parameters, [value.shape for value in values])


def _converted(value: Any, spec: ParameterSpec, convert: Callable[[Any], Any]) -> Any:
    try:
        return convert(value)
    except (TypeError, ValueError, RuntimeError) as exc:
        raise ParameterError(
            f"parameter '{spec.name}': expected a tensor, got {type(value).__name__}; convert it first."
        ) from exc


def leading_shapes(specs: Sequence[ParameterSpec], shapes: Sequence[Shape]) -> list[Shape]:
    """What stands before each parameter's own shape in the shapes of its values, known before there are numbers.

    Raises
    ------
    ParameterError
        A shape does not end in its parameter's.
    """
    leading: list[Any] = []
    for spec, shape in zip(specs, shapes, strict=True):
        cut = len(shape) - len(spec.shape)
        if cut < 0 or tuple(shape[cut:]) != spec.shape:
            raise ParameterError(
                f"parameter '{spec.name}': got an array of shape {tuple(shape)}, expected {spec.shape} with any batch "
                "dimensions in front; reshape it, or check the order in which the parameters are handed in."
            )
        leading.append(shape[:cut])
    return leading


def batch_shape(specs: Sequence[ParameterSpec], shapes: Sequence[Shape], broadcast: Callable[..., Shape]) -> Shape:
    """The shape to which the leading shapes broadcast together, by the framework's own ``broadcast``.

    Raises
    ------
    ParameterError
        As for ``leading_shapes``, or they do not broadcast together.
    """
    leading = leading_shapes(specs, shapes)
    try:
        return broadcast(*leading)
    except (ValueError, RuntimeError) as exc:
        found = ", ".join(f"'{spec.name}' has {tuple(shape)}" for spec, shape in zip(specs, leading, strict=True))
        raise ParameterError(
            f"parameters: their batch dimensions do not broadcast together: {found}; give each parameter the same "
            "batch dimensions, size 1, or none."
        ) from exc
