"""Thirty-two coordinates at a time: the few operations on floats and bits that a compiler does not find itself.

A loop that puts one comparison after the other into the bits of a word is compiled to one instruction per coordinate;
processors compare, and select by bits, eight or sixteen floats in one. So these are written as vectors of LLVM, which
every processor has its own instructions for, and are called from the kernels as functions. Numba looks only at the file
of a kernel for whether what it keeps on disk is still right: after a change here, save ``kernels.py`` too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

WIDTH = 32
_WORD = ir.IntType(WIDTH)


def _function(generator: Callable[..., Any]) -> Any:
    """What kernels call; ``generator`` gives its type and how it is written in LLVM."""
    return intrinsic(generator)


def _pointer(context: Any, builder: Any, kind: Any, array: Any, index: Any) -> Any:
    """To the 32 elements of a contiguous array from ``index`` on."""
    element = context.get_data_type(kind.dtype)
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), ir.VectorType(element, WIDTH).as_pointer())


def _splat(builder: Any, value: Any) -> Any:
    """32 times ``value``."""
    one = builder.insert_element(ir.Constant(ir.VectorType(value.type, WIDTH), ir.Undefined), value, ir.IntType(32)(0))
    return builder.shuffle_vector(one, one, ir.Constant(ir.VectorType(ir.IntType(32), WIDTH), [0] * WIDTH))


def _align(kind: Any) -> int:
    return int(kind.dtype.bitwidth) // 8


@_function
def not_negative(typing: Any, vector: Any, index: Any) -> Any:
    """uint32: bit k says whether vector[index + k] ≥ 0."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = builder.load(
            _pointer(context, builder, signature.args[0], *arguments), align=_align(signature.args[0])
        )
        zero = ir.Constant(values.type, [0.0] * WIDTH)
        return builder.bitcast(builder.fcmp_ordered(">=", values, zero), _WORD)

    return types.uint32(vector, types.intp), generate


@_function
def below(typing: Any, uniform: Any, place: Any, shared: Any, vector: Any, index: Any, factor: Any) -> Any:
    """uint32: bit k says whether uniform[place + k] + shared < vector[index + k] · factor, in the vector's dtype."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        numbers, place, shared, values, index, factor = arguments
        kinds = signature.args
        whole = builder.load(_pointer(context, builder, kinds[0], numbers, place), align=_align(kinds[0]))
        own = builder.load(_pointer(context, builder, kinds[3], values, index), align=_align(kinds[3]))
        drawn = builder.fadd(builder.sitofp(whole, own.type), _splat(builder, shared))
        return builder.bitcast(builder.fcmp_ordered("<", drawn, builder.fmul(own, _splat(builder, factor))), _WORD)

    return types.uint32(uniform, types.intp, vector.dtype, vector, types.intp, vector.dtype), generate


@_function
def add_signed(typing: Any, word: Any, scale: Any, out: Any, index: Any) -> Any:
    """out[index + k] += scale where bit k of ``word`` is set, −scale where it is not."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, scale, out, index = arguments
        pointer = _pointer(context, builder, signature.args[2], out, index)
        held = builder.load(pointer, align=_align(signature.args[2]))
        # A bit moved to the place of the sign makes −scale a scale.
        top = signature.args[2].dtype.bitwidth - 1
        whole = ir.IntType(top + 1)
        lanes = ir.VectorType(whole, WIDTH)
        moved = builder.shl(
            _splat(builder, builder.zext(word, whole) if top > 31 else word),
            ir.Constant(lanes, [top - k for k in range(WIDTH)]),
        )
        signs = builder.and_(moved, ir.Constant(lanes, [1 << top] * WIDTH))
        least = builder.bitcast(_splat(builder, builder.fneg(scale)), lanes)
        chosen = builder.bitcast(builder.xor(signs, least), held.type)
        builder.store(builder.fadd(held, chosen), pointer, align=_align(signature.args[2]))
        return context.get_dummy_value()

    return types.void(types.uint32, out.dtype, out, types.intp), generate


@_function
def sum_of_magnitudes(typing: Any, vector: Any, index: Any) -> Any:
    """Σ_k |vector[index + k]|, in the vector's dtype."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        values = builder.load(
            _pointer(context, builder, signature.args[0], *arguments), align=_align(signature.args[0])
        )
        name = f"llvm.fabs.v{WIDTH}f{signature.args[0].dtype.bitwidth}"
        magnitudes = builder.module.globals.get(name)
        if magnitudes is None:
            magnitudes = ir.Function(builder.module, ir.FunctionType(values.type, [values.type]), name)
        values = builder.call(magnitudes, [values])
        half = WIDTH // 2
        while half:  # the upper half is added to the lower one, until one number is left
            lower, upper = (_part(builder, values, start, half) for start in (0, half))
            values, half = builder.fadd(lower, upper), half // 2
        return builder.extract_element(values, ir.IntType(32)(0))

    return vector.dtype(vector, types.intp), generate


def _part(builder: Any, values: Any, start: int, count: int) -> Any:
    return builder.shuffle_vector(
        values, values, ir.Constant(ir.VectorType(ir.IntType(32), count), list(range(start, start + count)))
    )


@_function
def load(typing: Any, bits: Any, byte: Any) -> Any:
    """uint32: the four bytes from ``byte`` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(_word_pointer(context, builder, signature.args[0], *arguments), align=1)

    return types.uint32(bits, types.intp), generate


@_function
def store(typing: Any, word: Any, bits: Any, byte: Any) -> Any:
    """Writes ``word`` into the four bytes from ``byte`` on."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, bits, byte = arguments
        builder.store(word, _word_pointer(context, builder, signature.args[1], bits, byte), align=1)
        return context.get_dummy_value()

    return types.void(types.uint32, bits, types.intp), generate


def _word_pointer(context: Any, builder: Any, kind: Any, array: Any, byte: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [byte]), _WORD.as_pointer())
