"""Vectors of lanes as Numba values, by LLVM IR: LLVM keeps them in whatever registers the machine has.

Activations lie with the images innermost, so a pixel of L images is a vector. Numba has no such type; this module adds
it, with the operations that the kernels need. ``load``, ``store``, ``number`` and ``put`` go through raw pointers,
without Numba's test for negative indices, which costs instructions in the innermost loops. In debug mode they check
every access.
"""

import os

import llvmlite.binding
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, register_model

DEBUG = bool(os.environ.get("REPRO_ENGINE_DEBUG"))
"""Compile with bounds checks everywhere, these intrinsics included."""


def _registers() -> int:
    """Numbers of 32 bits in a vector register of this machine."""
    features = llvmlite.binding.get_host_cpu_features()
    return 16 if features.get("avx512f") else 8 if features.get("avx2") else 4


W = int(os.environ.get("REPRO_ENGINE_WIDTH") or _registers())
"""Lanes that the gradient of a weight is summed in: one register."""
L = 4 * W
"""Images of a block. A pixel takes four registers, so that what is done for each pixel is done for as many images as
can be, and four pixels still fit into the registers of a CPU with 32 of them."""

_I32, _I64 = ir.IntType(32), ir.IntType(64)


class Vec(types.Type):
    """``lanes`` numbers of ``dtype``."""

    def __init__(self, dtype: types.Float, lanes: int):
        self.dtype, self.lanes = dtype, lanes
        super().__init__(name=f"Vec({dtype}, {lanes})")


@register_model(Vec)
class _VecModel(models.PrimitiveModel):
    def __init__(self, dmm, fe_type):
        element = ir.FloatType() if fe_type.dtype == types.float32 else ir.DoubleType()
        super().__init__(dmm, fe_type, ir.VectorType(element, fe_type.lanes))


# --- memory -------------------------------------------------------------------------------------------------


def _pointer(context, builder, signature, arguments, lanes: int):
    """Address of entry arguments[1] of the flat array arguments[0], of which ``lanes`` entries will be touched."""
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    at = context.cast(builder, arguments[1], signature.args[1], types.intp)
    if DEBUG:
        end = builder.add(at, ir.Constant(at.type, lanes))
        outside = builder.or_(
            builder.icmp_signed("<", at, ir.Constant(at.type, 0)), builder.icmp_signed(">", end, array.nitems)
        )
        with builder.if_then(outside, likely=False):
            context.call_conv.return_user_exc(builder, IndexError, ("outside of an array",))
    return builder.gep(array.data, [at])


def _size(dtype) -> int:
    return dtype.bitwidth // 8


@intrinsic(prefer_literal=True)
def number(typingctx, array, at):
    """array[at], of a flat array, at >= 0; integers as intp."""
    result = types.intp if isinstance(array.dtype, types.Integer) else array.dtype

    def code(context, builder, signature, arguments):
        found = builder.load(_pointer(context, builder, signature, arguments, 1))
        return context.cast(builder, found, array.dtype, result)

    return result(array, at), code


@intrinsic(prefer_literal=True)
def put(typingctx, array, at, value):
    """array[at] = value, for a flat array of floats, at >= 0."""
    value = types.unliteral(value)

    def code(context, builder, signature, arguments):
        number = context.cast(builder, arguments[2], value, array.dtype)
        builder.store(number, _pointer(context, builder, signature, arguments, 1))
        return context.get_dummy_value()

    return types.none(array, at, value), code


@intrinsic(prefer_literal=True)
def load(typingctx, array, at, lanes):
    """The ``lanes`` numbers of a flat array from ``at`` on."""
    vec = Vec(array.dtype, lanes.literal_value)

    def code(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature, arguments, vec.lanes)
        return builder.load(builder.bitcast(pointer, context.get_value_type(vec).as_pointer()), align=_size(vec.dtype))

    return vec(array, at, lanes), code


@intrinsic(prefer_literal=True)
def store(typingctx, array, at, value):
    """Write a vector to a flat array from ``at`` on."""

    def code(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature, arguments, value.lanes)
        target = builder.bitcast(pointer, context.get_value_type(value).as_pointer())
        builder.store(arguments[2], target, align=_size(array.dtype))
        return context.get_dummy_value()

    return types.none(array, at, value), code


@intrinsic(prefer_literal=True)
def stream(typingctx, array, at, value):
    """Write past the caches. The address has to be a multiple of 64 bytes."""

    def code(context, builder, signature, arguments):
        pointer = _pointer(context, builder, signature, arguments, value.lanes)
        target = builder.bitcast(pointer, context.get_value_type(value).as_pointer())
        instruction = builder.store(arguments[2], target, align=64)
        instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(_I32, 1)]))
        return context.get_dummy_value()

    return types.none(array, at, value), code


# --- arithmetic ---------------------------------------------------------------------------------------------


def _splat(builder, value, lanes: int):
    kind = ir.VectorType(value.type, lanes)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, lanes), [0] * lanes))


def _picked(builder, a, b, lanes: list[int]):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))


def _parts(builder, x, lanes: int) -> list:
    """``x`` cut into vectors of at most ``lanes`` lanes."""
    count = x.type.count
    return [_picked(builder, x, x, list(range(k, min(count, k + lanes)))) for k in range(0, count, lanes)]


def _joined(builder, parts: list):
    while len(parts) > 1:
        lanes = list(range(2 * parts[0].type.count))
        parts = [_picked(builder, a, b, lanes) for a, b in zip(parts[::2], parts[1::2])]
    return parts[0]


def _fma(builder, a, b, c):
    suffix = f"v{a.type.count}{'f32' if a.type.element == ir.FloatType() else 'f64'}"
    kind = ir.FunctionType(a.type, [a.type] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fmuladd.{suffix}"), [a, b, c])


@intrinsic(prefer_literal=True)
def fill(typingctx, array, value, lanes):
    """A scalar in the type of ``array``, in all lanes."""
    vec, value = Vec(array.dtype, lanes.literal_value), types.unliteral(value)

    def code(context, builder, signature, arguments):
        return _splat(builder, context.cast(builder, arguments[1], value, vec.dtype), vec.lanes)

    return vec(array, value, lanes), code


@intrinsic(prefer_literal=True)
def fma(typingctx, a, b, c):
    """a * b + c, rounded once where the machine can."""

    def code(context, builder, signature, arguments):
        return _fma(builder, *arguments)

    return a(a, b, c), code


def _binary(name: str):
    @intrinsic(prefer_literal=True)
    def operation(typingctx, a, b):
        def code(context, builder, signature, arguments):
            return getattr(builder, name)(*arguments)

        return a(a, b), code

    return operation


add, sub, mul, div = (_binary(name) for name in ("fadd", "fsub", "fmul", "fdiv"))


def _choice(comparison: str, *, ordered: bool):
    """value where (a comparison b), else other: by registers, since LLVM packs and unpacks longer masks."""

    @intrinsic(prefer_literal=True)
    def operation(typingctx, a, b, value, other):
        def code(context, builder, signature, arguments):
            compare = builder.fcmp_ordered if ordered else builder.fcmp_unordered
            parts = zip(*(_parts(builder, x, W) for x in arguments))
            return _joined(builder, [builder.select(compare(comparison, p, q), v, o) for p, q, v, o in parts])

        return value(a, b, value, other), code

    return operation


where_above = _choice(">", ordered=False)
"""where_above(a, b, value, other): value where a > b or one of them is NaN, else other."""
where_equal = _choice("==", ordered=True)


@intrinsic(prefer_literal=True)
def dot(typingctx, total, a, b):
    """total [n] + the products a * b, added up to n lanes."""

    def code(context, builder, signature, arguments):
        out, x, y = arguments
        for p, q in zip(_parts(builder, x, total.lanes), _parts(builder, y, total.lanes)):
            out = _fma(builder, p, q, out)
        return out

    return total(total, a, b), code


@intrinsic(prefer_literal=True)
def total(typingctx, value):
    """The sum of all lanes, by halves."""

    def code(context, builder, signature, arguments):
        x = arguments[0]
        while x.type.count > 1:
            x = builder.fadd(*_parts(builder, x, x.type.count // 2))
        return builder.extract_element(x, ir.Constant(_I32, 0))

    return value.dtype(value), code


@intrinsic(prefer_literal=True)
def rows_summed(typingctx, array, at, lanes):
    """Sums of each of ``lanes`` consecutive vectors of ``lanes`` numbers (a power of two), as one vector."""
    vec = Vec(array.dtype, lanes.literal_value)
    n = vec.lanes

    def code(context, builder, signature, arguments):
        base = _pointer(context, builder, signature, arguments, n * n)
        kind = context.get_value_type(vec).as_pointer()
        rows = [builder.bitcast(builder.gep(base, [ir.Constant(_I64, k * n)]), kind) for k in range(n)]
        rows = [builder.load(row, align=_size(vec.dtype)) for row in rows]
        evens, odds = list(range(0, 2 * n, 2)), list(range(1, 2 * n, 2))
        while len(rows) > 1:
            rows = [
                builder.fadd(_picked(builder, a, b, evens), _picked(builder, a, b, odds))
                for a, b in zip(rows[::2], rows[1::2])
            ]
        return rows[0]

    return vec(array, at, lanes), code


@intrinsic(prefer_literal=True)
def power_of_two(typingctx, value):
    """2 to the power of ``value``, which holds whole numbers within the range of normal exponents."""
    bits, shift, bias = (32, 23, 127) if value.dtype == types.float32 else (64, 52, 1023)

    def code(context, builder, signature, arguments):
        kind = ir.VectorType(ir.IntType(bits), value.lanes)
        exponent = builder.add(builder.fptosi(arguments[0], kind), ir.Constant(kind, [bias] * value.lanes))
        return builder.bitcast(builder.shl(exponent, ir.Constant(kind, [shift] * value.lanes)), arguments[0].type)

    return value(value), code


@intrinsic(prefer_literal=True)
def rounded(typingctx, value):
    """The nearest whole numbers."""

    def code(context, builder, signature, arguments):
        x = arguments[0]
        suffix = f"v{x.type.count}{'f32' if value.dtype == types.float32 else 'f64'}"
        kind = ir.FunctionType(x.type, [x.type])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.rint.{suffix}"), [x])

    return value(value), code
