"""A value of W lanes: one number for each of W problems, held in vector registers; or of one problem, a plain number.

Kernels keep their values as arrays (entries, lanes). ``load(V, i)`` gives row i of an array of W columns as one value,
``+ - * /``, ``maximum``, ``sqrt`` and so on work lane by lane, and ``store`` writes it back. Each operation is a vector
instruction by construction: Numba's own loops over lanes are vectorized only where LLVM can prove that no two arrays
overlap, and run several times slower where it cannot.

Arrays of one dimension, (entries,), hold a single problem. The same kernels, compiled for these, work on plain numbers,
so that a problem alone costs no more than itself: neither W times the memory, nor the wide instructions after which
many processors run everything more slowly for most of a millisecond.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.extending import intrinsic, models, register_model
from numba.core.imputils import lower_builtin
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.np import arrayobj

from cvxlayers.kernels.width import W

__all__ = [
    "LANES",
    "absolute",
    "noinline",
    "columns_of",
    "splat",
    "highest",
    "index",
    "load",
    "load_from",
    "maximum",
    "minimum",
    "nearest",
    "select",
    "scatter_to",
    "split",
    "sqrt",
    "store",
    "store_to",
    "two_to",
]

_NUMBER = ir.DoubleType()
_VECTOR = ir.VectorType(_NUMBER, W)
_INT32, _INT64 = ir.IntType(32), ir.IntType(64)


class LanesType(types.Type):
    """Numba's type of a value of W lanes."""

    def __init__(self) -> None:
        super().__init__(name=f"Lanes{W}")


LANES = LanesType()

operation: Any = intrinsic
"""Marks a function that returns the types of an operation and what writes its instructions; kernels call it without the
first argument."""


@register_model(LanesType)
class LanesModel(models.PrimitiveModel):
    """Such a value is one LLVM vector."""

    def __init__(self, dmm: Any, fe_type: Any) -> None:
        super().__init__(dmm, fe_type, _VECTOR)


def _kind(*likes: Any) -> Any:
    """The type of the values of an array, or of those that come together: W lanes or a number."""
    several = any(kind.ndim == 2 if isinstance(kind, types.Array) else kind is LANES for kind in likes)
    return LANES if several else types.float64


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, row: Any, column: Any | None = None) -> Any:
    """The address of W neighbours in a row of a contiguous array; without a column the array has W columns. Or that of
    the row's number in an array of one dimension."""
    struct = arrayobj.make_array(array_type)(context, builder, array)
    if array_type.ndim == 1:
        return builder.gep(struct.data, [row])
    if column is None:
        offset = builder.mul(row, ir.Constant(_INT64, W))
    else:
        columns = cgutils.unpack_tuple(builder, struct.shape)[1]
        offset = builder.add(builder.mul(row, columns), column)
    return builder.bitcast(builder.gep(struct.data, [offset]), _VECTOR.as_pointer())


def _integers(context: Any, builder: Any, sig: Any, args: Any, *which: int) -> list[Any]:
    return [context.cast(builder, args[k], sig.args[k], types.int64) for k in which]


def _splat(builder: Any, number: Any) -> Any:
    one = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), number, ir.Constant(_INT32, 0))
    zeros = ir.Constant(ir.VectorType(_INT32, W), [0] * W)
    return builder.shuffle_vector(one, ir.Constant(_VECTOR, ir.Undefined), zeros)


def _lanes(builder: Any, kind: Any, value: Any) -> list[Any]:
    """The numbers of a value."""
    return [builder.extract_element(value, ir.Constant(_INT32, k)) for k in range(W)] if kind is LANES else [value]


@operation
def load(typingctx: Any, V: Any, i: Any) -> Any:
    """Row i of V (rows, W) or (rows,)."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        (row,) = _integers(context, builder, sig, args, 1)
        return builder.load(_pointer(context, builder, sig.args[0], args[0], row), align=8)

    return _kind(V)(V, i), generate


@operation
def index(typingctx: Any, plan: Any, k: Any) -> Any:
    """Entry k >= 0 of an array of int32, as int64; unlike plan[k] it does not ask whether k is negative."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        (place,) = _integers(context, builder, sig, args, 1)
        struct = arrayobj.make_array(sig.args[0])(context, builder, args[0])
        return builder.sext(builder.load(builder.gep(struct.data, [place])), _INT64)

    return types.int64(plan, k), generate


@operation
def store(typingctx: Any, V: Any, i: Any, value: Any) -> Any:
    """Write row i of V (rows, W) or (rows,)."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        (row,) = _integers(context, builder, sig, args, 1)
        builder.store(args[2], _pointer(context, builder, sig.args[0], args[0], row), align=8)
        return context.get_dummy_value()

    return types.void(V, i, _kind(V)), generate


@operation
def load_from(typingctx: Any, V: Any, i: Any, j: Any) -> Any:
    """V[i, j : j + W] of a contiguous array V (rows, batch); V[i, 0] in all lanes if the array has one column. Or V[i]
    of an array (rows,)."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        row, column = _integers(context, builder, sig, args, 1, 2)
        if sig.args[0].ndim == 1:
            return builder.load(_pointer(context, builder, sig.args[0], args[0], row))
        struct = arrayobj.make_array(sig.args[0])(context, builder, args[0])
        columns = cgutils.unpack_tuple(builder, struct.shape)[1]
        shared = builder.icmp_signed("==", columns, ir.Constant(_INT64, 1))
        with builder.if_else(shared) as (then, otherwise):
            with then:
                same = _splat(builder, builder.load(builder.gep(struct.data, [row])))
                from_one = builder.block
            with otherwise:
                address = _pointer(context, builder, sig.args[0], args[0], row, column)
                several = builder.load(address, align=8)
                from_many = builder.block
        value = builder.phi(_VECTOR)
        value.add_incoming(same, from_one)
        value.add_incoming(several, from_many)
        return value

    return _kind(V)(V, i, j), generate


@operation
def store_to(typingctx: Any, V: Any, i: Any, j: Any, value: Any) -> Any:
    """Write V[i, j : j + W] of a contiguous array V (rows, batch), or V[i] of an array (rows,)."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        row, column = _integers(context, builder, sig, args, 1, 2)
        builder.store(args[3], _pointer(context, builder, sig.args[0], args[0], row, column), align=8)
        return context.get_dummy_value()

    return types.void(V, i, j, _kind(V)), generate


@operation
def columns_of(typingctx: Any, V: Any) -> Any:
    """How many columns V has: one if it is an array (rows,)."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        if sig.args[0].ndim == 1:
            return ir.Constant(_INT64, 1)
        struct = arrayobj.make_array(sig.args[0])(context, builder, args[0])
        return cgutils.unpack_tuple(builder, struct.shape)[1]

    return types.int64(V), generate


@operation
def scatter_to(typingctx: Any, V: Any, i: Any, stride: Any, value: Any) -> Any:
    """Write numbers i, i + stride, ..., one for each lane, of a contiguous array V, whatever its shape."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        place, stride = _integers(context, builder, sig, args, 1, 2)
        struct = arrayobj.make_array(sig.args[0])(context, builder, args[0])
        for lane in _lanes(builder, sig.args[3], args[3]):
            builder.store(lane, builder.gep(struct.data, [place]))
            place = builder.add(place, stride)
        return context.get_dummy_value()

    return types.void(V, i, stride, _kind(value)), generate


@operation
def noinline(typingctx: Any) -> Any:
    """Keep the kernel in which this stands from being copied into its callers, which would take long to compile."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), generate


@operation
def splat(typingctx: Any, like: Any, number: Any) -> Any:
    """One number in all lanes of a value like those of this array, or like this value."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        found = context.cast(builder, args[1], sig.args[1], types.float64)
        return _splat(builder, found) if sig.return_type is LANES else found

    return _kind(like)(like, number), generate


@operation
def select(typingctx: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    """yes in the lanes with a > b, no in the others (also where a or b is NaN)."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    kind = _kind(a, b, yes, no)
    return kind(kind, kind, kind, kind), generate


@operation
def highest(typingctx: Any, a: Any) -> Any:
    """The largest of the W numbers, as one number; NaN does not count."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        found = ir.Constant(_NUMBER, float("-inf"))
        for lane in _lanes(builder, sig.args[0], args[0]):
            found = builder.select(builder.fcmp_ordered(">", lane, found), lane, found)
        return found

    return types.float64(_kind(a)), generate


def _call(name: str) -> Callable[[Any, Any, Any, Any], Any]:
    """An intrinsic function of LLVM, lane by lane."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        suffix, of = (f"v{W}f64", _VECTOR) if sig.return_type is LANES else ("f64", _NUMBER)
        function = builder.module.declare_intrinsic(f"{name}.{suffix}", (), ir.FunctionType(of, [of]))
        return builder.call(function, [args[0]])

    return generate


@operation
def sqrt(typingctx: Any, a: Any) -> Any:
    """The square root."""
    return _kind(a)(_kind(a)), _call("llvm.sqrt")


@operation
def absolute(typingctx: Any, a: Any) -> Any:
    """The absolute value."""
    return _kind(a)(_kind(a)), _call("llvm.fabs")


@operation
def nearest(typingctx: Any, a: Any) -> Any:
    """The nearest whole number."""
    return _kind(a)(_kind(a)), _call("llvm.rint")


_WHOLE = 6755399441055744.0  # 1.5 * 2^52: a whole number added to it stands in the lowest bits of the sum


def _wide(kind: Any, of: Any) -> Any:
    """So many of LLVM's type as there are lanes."""
    return ir.VectorType(of, W) if kind is LANES else of


def _constant(kind: Any, number: int | float) -> Any:
    """One constant in all lanes, of integers or of numbers."""
    of = _wide(kind, _INT64 if isinstance(number, int) else _NUMBER)
    return ir.Constant(of, [number] * W if kind is LANES else number)


@operation
def split(typingctx: Any, a: Any) -> Any:
    """m and a whole number e with a = m 2^e and m between the roots of 1/2 and 2, for a > 0 (not for the tiniest)."""
    kind = _kind(a)
    numbers, integers = _wide(kind, _NUMBER), _wide(kind, _INT64)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(args[0], integers)
        # Counted from the bits of sqrt(1/2), the exponent is in the highest 12; 2^11 keeps it positive.
        above = builder.sub(bits, _constant(kind, 0x3FE6A09E667F3BCD - (1 << 62) - (1 << 62)))
        exponent = builder.sub(builder.lshr(above, _constant(kind, 52)), _constant(kind, 1 << 11))
        m = builder.bitcast(builder.sub(bits, builder.shl(exponent, _constant(kind, 52))), numbers)
        e = builder.sitofp(builder.trunc(exponent, _wide(kind, _INT32)), numbers)
        return context.make_tuple(builder, sig.return_type, [m, e])

    return types.UniTuple(kind, 2)(kind), generate


@operation
def two_to(typingctx: Any, k: Any) -> Any:
    """2^k for whole numbers k between -1022 and 1023."""
    kind = _kind(k)

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        bits = builder.bitcast(builder.fadd(args[0], _constant(kind, _WHOLE)), _wide(kind, _INT64))
        shifted = builder.shl(builder.add(bits, _constant(kind, 1023)), _constant(kind, 52))
        return builder.bitcast(shifted, _wide(kind, _NUMBER))

    return kind(kind), generate


def _chosen(sign: str) -> Callable[[Any, Any, Any, Any], Any]:
    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(sign, args[0], args[1]), args[0], args[1])

    return generate


@operation
def maximum(typingctx: Any, a: Any, b: Any) -> Any:
    """The larger of a and b; b where one of them is NaN."""
    kind = _kind(a, b)
    return kind(kind, kind), _chosen(">")


@operation
def minimum(typingctx: Any, a: Any, b: Any) -> Any:
    """The smaller of a and b; b where one of them is NaN."""
    kind = _kind(a, b)
    return kind(kind, kind), _chosen("<")


def _operator(symbol: Any, instruction: str) -> None:
    """An operator on two values of W lanes, or on one and a number."""

    class Template(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            known = all(kind is LANES or isinstance(kind, types.Number) for kind in args)
            return signature(LANES, *args) if known and LANES in args else None

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        sides = [
            arg if kind is LANES else _splat(builder, context.cast(builder, arg, kind, types.float64))
            for kind, arg in zip(sig.args, args, strict=True)
        ]
        return getattr(builder, instruction)(*sides)

    infer_global(symbol)(Template)
    for kinds in ((LanesType, LanesType), (LanesType, types.Number), (types.Number, LanesType)):
        lower_builtin(symbol, *kinds)(generate)


for _symbol, _inplace, _instruction in (
    (operator.add, operator.iadd, "fadd"),
    (operator.sub, operator.isub, "fsub"),
    (operator.mul, operator.imul, "fmul"),
    (operator.truediv, operator.itruediv, "fdiv"),
):
    _operator(_symbol, _instruction)
    _operator(_inplace, _instruction)


@infer_global(operator.neg)
class _NegativeTemplate(AbstractTemplate):
    def generic(self, args: Any, kws: Any) -> Any:
        return signature(LANES, LANES) if args == (LANES,) else None


@lower_builtin(operator.neg, LanesType)
def _negative(context: Any, builder: Any, sig: Any, args: Any) -> Any:
    return builder.fneg(args[0])
