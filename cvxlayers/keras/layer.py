"""The Keras layer: inputs and weights become parameters; the backend's own layer does the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras

from cvxlayers.adapters.base import Adapter
from cvxlayers.errors import ArtefactError, EngineError, OptionError, ParameterError, UnknownLeafError
from cvxlayers.keras.backend import adapter
from cvxlayers.keras.config import Weight, decode, encode
from cvxlayers.layer.layer import Layer
from cvxlayers.layer.packing import refuse_enlarged
from cvxlayers.program.compiled import CompiledProblem
from cvxlayers.program.summary import Rows

if TYPE_CHECKING:
    from cvxpy import Parameter, Problem, Variable

__all__ = ["CvxpyLayer"]

Shape = tuple[int | None, ...]


@keras.saving.register_keras_serializable(package="cvxlayers")
class CvxpyLayer(Adapter, keras.layers.Layer):
    """A convex optimization problem as a Keras layer, on the TensorFlow, JAX and PyTorch backends.

    Parameters
    ----------
    problem : cvxpy.Problem or CompiledProblem
        The latter from ``cvxlayers.compile`` or ``cvxlayers.load``; ``parameters``, ``variables`` and ``gp`` are then
        part of it.
    parameters, variables, solver, gp, verbose, solver_args
        As for ``cvxlayers.torch.CvxpyLayer``.
    weights : mapping, optional
        Parameters that are not inputs but weights of the layer, by parameter or name: an initializer (or a number or
        array), or a mapping with some of ``initializer`` (default zeros), ``constraint``, ``regularizer`` and
        ``trainable`` (default True). Give a parameter with a sign a constraint, for example
        ``keras.constraints.NonNeg()``.
    on_failure : "raise", "nan" or "zero_grad"
        See ``cvxlayers.Layer``.
    check_parameters : bool
        Whether values are checked against their parameters' attributes.
    polish, smoothing, broadcast
        See ``cvxlayers.Layer``.
    **kwargs
        Of ``keras.layers.Layer``: ``name``, ``dtype``, ``trainable``. Keras casts inputs to the layer's dtype, float32
        if nothing else is set; the solver works in float64 all the same.

    Notes
    -----
    Inputs and outputs: where one parameter is an input, a tensor; where several are, a list or tuple in the order of
    the parameters, or a dict by their names; where none is, nothing. One variable returns a tensor, several a tuple.
    All have their batch dimensions in front.

    A model saved as ``.keras`` holds the compiled problem: loading it runs none of the user's code and needs no CVXPY,
    only ``import cvxlayers.keras``. One that was tampered with is an ArtefactError.

    Examples
    --------
    >>> import cvxpy as cp, keras, numpy as np
    >>> x, signal = cp.Variable(5), cp.Parameter(5, name="signal")
    >>> weight = cp.Parameter(nonneg=True, name="weight")
    >>> problem = cp.Problem(cp.Minimize(cp.sum_squares(x - signal) / 2 + weight * cp.norm1(cp.diff(x))))
    >>> learned = dict(initializer=0.1, constraint="non_neg")
    >>> layer = CvxpyLayer(problem, [signal, weight], [x], weights={weight: learned})
    >>> tuple(layer(np.ones((8, 5))).shape), len(layer.trainable_weights)
    ((8, 5), 1)
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> CvxpyLayer:
        """Without the arguments: Keras would sort the keys of ``weights``, and CVXPY's parameters have no order."""
        layer: CvxpyLayer = super().__new__(cls)
        return layer

    def __init__(
        self,
        problem: Problem | CompiledProblem,
        parameters: Sequence[Parameter] | None = None,
        variables: Sequence[Variable] | None = None,
        solver: str | None = None,
        gp: bool = False,
        verbose: bool = False,
        solver_args: Mapping[str, Any] | None = None,
        *,
        weights: Mapping[Any, Any] | None = None,
        on_failure: str = "raise",
        check_parameters: bool = True,
        polish: bool | None = None,
        smoothing: float | None = None,
        broadcast: bool = False,
        **kwargs: Any,
    ) -> None:
        keras.layers.Layer.__init__(self, **kwargs)
        if not isinstance(problem, CompiledProblem):
            problem = Layer.from_problem(problem, parameters, variables, solver, gp, solver_args).compiled
        elif parameters is not None or variables is not None or gp:
            raise OptionError(
                "parameters, variables, gp: these are part of a compiled problem; leave them out, or hand in the CVXPY "
                "problem."
            )
        self._options = {
            "solver": solver, "solver_args": dict(solver_args or {}), "verbose": verbose, "on_failure": on_failure,
            "check_parameters": check_parameters, "polish": polish, "smoothing": smoothing, "broadcast": broadcast,
        }  # fmt: skip
        self.core, self._solve = adapter(problem, **self._options)
        self._specs = {spec.name: spec for spec in problem.parameters}
        self._weights = _read(weights or {}, problem)
        self._own = {name: self._variable(name) for name in self._weights}
        self.supports_jit = keras.backend.backend() == "jax"  # the other compilers cannot call the host
        self.built = True

    @classmethod
    def from_compiled(cls, compiled: CompiledProblem, **options: Any) -> CvxpyLayer:
        """A layer of an already compiled problem."""
        return cls(compiled, **options)

    def summary_rows(self) -> Rows:
        return [*super().summary_rows(), ("weights", ", ".join(self._own) or "none")]

    @property
    def input_names(self) -> list[str]:
        """The names of the parameters that are inputs, in order."""
        return [name for name in self._specs if name not in self._own]

    def call(self, inputs: Any = None) -> Any:
        """Solve; see the class for what goes in and comes out.

        Raises
        ------
        ParameterError, SolveError
            See ``cvxlayers.Layer.solve``; in compiled code they come out as the backend's own error, with their text.
        """
        given = self._by_name(inputs)
        tensors = [self._own[name] if name in self._own else given[name] for name in self._specs]
        outputs = self._solve(*(self._cast(tensor) for tensor in tensors))
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def compute_output_shape(self, input_shape: Any = None) -> Any:
        """The shape of the output, or a tuple of shapes, from the shapes of the inputs; nothing is solved."""
        if _is_shape(input_shape) and len(self.input_names) == 1:
            input_shape = [input_shape]
        batch = self._batch(self._by_name(input_shape))
        shapes = tuple(batch + spec.shape for spec in self.compiled.outputs)
        return shapes[0] if len(shapes) == 1 else shapes

    def compute_output_spec(self, inputs: Any = None) -> Any:
        """Symbolic outputs for symbolic inputs; nothing is solved."""
        given = self._by_name(inputs)
        batch = self._batch({name: tuple(tensor.shape) for name, tensor in given.items()})
        wide = "complex128" if self.compute_dtype == "float64" else "complex64"
        specs = self.compiled.outputs
        found = tuple(
            keras.KerasTensor(batch + spec.shape, dtype=wide if spec.complex else self.compute_dtype) for spec in specs
        )
        return found[0] if len(found) == 1 else found

    def get_config(self) -> dict[str, Any]:
        """All that makes the layer again, in a form that JSON takes."""
        weights = {name: weight.config() for name, weight in self._weights.items()}
        return {**super().get_config(), **self._options, "problem": encode(self.compiled), "weights": weights}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> CvxpyLayer:
        """The layer that gave this configuration; CVXPY is not needed.

        Raises
        ------
        ArtefactError
            No layer gave it: it was damaged, or tampered with.
        EngineError
            The solver that it names is not installed here.
        """
        try:
            problem = decode(config["problem"])
            layer: CvxpyLayer = super().from_config({**config, "problem": problem})
        except (ArtefactError, EngineError):
            raise
        except (TypeError, ValueError, LookupError, AttributeError) as exc:
            raise ArtefactError(
                f"config: it is not what get_config gives ({type(exc).__name__}: {exc}); save the model again."
            ) from exc
        return layer

    def _variable(self, name: str) -> keras.Variable:
        spec, weight = self._specs[name], self._weights[name]
        if spec.complex:
            raise ParameterError(
                f"weights: parameter '{name}' is complex, and Keras keeps real weights; make it an input."
            )
        return self.add_weight(
            name=name, shape=spec.shape, initializer=weight.initializer, constraint=weight.constraint,
            regularizer=weight.regularizer, trainable=weight.trainable,
        )  # fmt: skip

    def _by_name(self, inputs: Any) -> dict[str, Any]:
        """The inputs, or their shapes, by the names of their parameters."""
        names = self.input_names
        if isinstance(inputs, Mapping):
            if set(inputs) != set(names):
                raise ParameterError(f"inputs: got {sorted(inputs)}, expected a value for each of {names}.")
            return dict(inputs)
        if inputs is None:
            inputs = []
        elif not isinstance(inputs, list | tuple):
            inputs = [inputs]
        if len(inputs) != len(names):
            raise ParameterError(
                f"inputs: got {len(inputs)} values, expected {len(names)}, one for each of {names}, in this order."
            )
        return dict(zip(names, inputs, strict=True))

    def _cast(self, tensor: Any) -> Any:
        """In the dtype of the layer; complex numbers stay, and the core says what it thinks of them."""
        if not keras.ops.is_tensor(tensor):
            tensor = keras.ops.convert_to_tensor(tensor)
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        as_it_is = dtype == self.compute_dtype or dtype.startswith("complex")
        return tensor if as_it_is else keras.ops.cast(tensor, self.compute_dtype)

    def _batch(self, shapes: Mapping[str, Shape]) -> Shape:
        """The batch's shape, with None for what is not known."""
        batch: Shape = ()
        for name, shape in shapes.items():
            spec = self._specs[name]
            cut = len(shape) - len(spec.shape)
            if cut < 0 or any(a not in (None, b) for a, b in zip(shape[cut:], spec.shape, strict=True)):
                raise ParameterError(
                    f"parameter '{name}': got an input of shape {tuple(shape)}, expected {spec.shape} with any batch "
                    "dimensions in front; reshape it, or check the order of the inputs."
                )
            batch = _broadcast(batch, tuple(shape[:cut]), name)
        if not self.core.broadcast:
            refuse_enlarged([self._specs[name] for name in shapes], list(shapes.values()))
        return batch


def _read(weights: Mapping[Any, Any], compiled: CompiledProblem) -> dict[str, Weight]:
    """The weights by name, in the order of the parameters."""
    names = [spec.name for spec in compiled.parameters]
    if len(set(names)) < len(names):
        raise UnknownLeafError(f"parameters: two have the same name among {names}; inputs and weights go by name.")
    given = {key if isinstance(key, str) else key.name(): value for key, value in weights.items()}
    if unknown := sorted(set(given) - set(names)):
        raise UnknownLeafError(f"weights: the problem has no parameter {unknown}; it has {names}.")
    return {name: Weight.of(given[name], name) for name in names if name in given}


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, list | tuple) and all(size is None or isinstance(size, int) for size in shape)


def _broadcast(one: Shape, other: Shape, name: str) -> Shape:
    """As NumPy does, where None is a size that is not known."""
    length = max(len(one), len(other))
    pairs = zip((1,) * (length - len(one)) + one, (1,) * (length - len(other)) + other, strict=True)
    sizes: list[int | None] = []
    for a, b in pairs:
        if None in (a, b):
            known = b if a is None else a
            sizes.append(None if known in (None, 1) else known)
        elif a != b and 1 not in (a, b):
            raise ParameterError(
                f"parameters: their batch dimensions do not broadcast together: '{name}' has {other}, those before it "
                f"{one}; give each input the same batch dimensions, size 1, or none."
            )
        else:
            sizes.append(b if a == 1 else a)
    return tuple(sizes)
