"""What Python cannot say to a GPU: 16-byte loads and stores, dp4a, tensor cores, bits of numbers.

Loads go through a GEP from the argument pointer: an integer turned into a pointer would lose the
global address space and the 128-bit load with it. Under the simulator the Python twins serve; a
pointer is then a flat NumPy array. This is the one file to port when the compiler changes.
"""

# Intrinsics are typed by their signatures, not by annotations.
# mypy: disallow-untyped-defs=false, disallow-untyped-calls=false, disallow-incomplete-defs=false
from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from numba import config, types

# Numba makes this module's contents at run time; its type stubs know few of them.
cuda: Any = import_module("numba.cuda")

SIMULATED = bool(vars(config)["ENABLE_CUDASIM"])

if SIMULATED:
    from tierline_kernels.cuda.simulator import exchange

    def inlined(function):
        """A part of a kernel; the simulator would swap its globals for each thread anew."""
        return function

    def load16(base, offset):
        """Four int32 words at a byte offset that is a multiple of 16; faults as a GPU does."""
        if (base.ctypes.data + int(offset)) % 16:
            raise ValueError(f"16-byte load from a misaligned address (offset {offset})")
        words = base.view(np.uint8)[int(offset) : int(offset) + 16].view(np.int32)
        return tuple(int(word) for word in words)

    def store16(base, offset, a, b, c, d):
        """Four float32 at a byte offset that is a multiple of 16."""
        base.view(np.uint8)[int(offset) : int(offset) + 16].view(np.float32)[:] = (a, b, c, d)

    def dp4a(a, b, c):
        """C plus the inner product of two words of four signed bytes."""
        left, right = (np.array([x], np.int64).astype(np.int32).view(np.int8) for x in (a, b))
        return int(c) + int(left.astype(np.int64) @ right.astype(np.int64))

    def mma_s8(a, b, c):
        """The warp's 16 x 8 product of bytes, 32 deep, on tensor cores (PTX's m16n8k32 layout)."""
        lanes, lane = exchange((a, b))
        group, four = divmod(lane, 4)

        def words(of, part, places):
            picked = [lanes[of * 4 + t][part][place] for place in places for t in range(4)]
            return np.array(picked, np.int64).astype(np.int32).view(np.int8).astype(np.int64)

        rows = [words(group, 0, (0, 2)), words(group, 0, (1, 3))]
        columns = [words(2 * four + side, 1, (0, 1)) for side in range(2)]
        return tuple(int(c[2 * r + s] + rows[r] @ columns[s]) for r in range(2) for s in range(2))

    def quotient_rest(x, q, s):
        """x - q * s, rounded once."""
        return np.float32(float(x) - float(q) * float(s))

    def nearest(x):
        """The nearest whole number, halves to the even one."""
        return np.rint(np.float32(x))

    def product(a, b):
        """A product rounded on its own, never fused into an addition."""
        return np.float32(a) * np.float32(b)

    def byte_to_float(word, place):
        """Signed byte ``place`` of a word as float32."""
        return np.float32(np.array([word], np.int64).astype(np.int32).view(np.int8)[place])

    def half_to_float(word, place):
        """Half ``place`` of a word as float32."""
        return np.float32(np.array([word], np.int64).astype(np.int32).view(np.float16)[place])

    def short_to_float(bits):
        """A float16's bits (uint16) as float32."""
        return np.float32(np.array([bits], np.uint16).view(np.float16)[0])

    def word_to_float(word):
        """An int32's bits as float32."""
        return np.array([word], np.int64).astype(np.int32).view(np.float32)[0]

    def float_to_word(value):
        """A float32's bits as int32."""
        return int(np.array([value], np.float32).view(np.int32)[0])

else:
    from numba.core import cgutils
    from numba.cuda.extending import intrinsic

    inlined = cuda.jit(device=True, inline="always")
    ir: Any = import_module("llvmlite.ir")
    I8, I16, I32, F32 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.FloatType()

    def _at(builder, base, offset, kind):
        raw = builder.bitcast(base, I8.as_pointer())
        return builder.bitcast(builder.gep(raw, [offset]), kind.as_pointer())

    @intrinsic
    def load16(typing, base, offset):
        def generate(context, builder, signature, args):
            del context, signature
            value = builder.load(_at(builder, args[0], args[1], ir.VectorType(I32, 4)))
            value.align = 16
            value.set_metadata("invariant.load", builder.module.add_metadata([]))
            parts = [builder.extract_element(value, ir.Constant(I32, k)) for k in range(4)]
            return cgutils.pack_array(builder, parts)

        return types.UniTuple(types.int32, 4)(base, types.int64), generate

    @intrinsic
    def store16(typing, base, offset, a, b, c, d):
        def generate(context, builder, signature, args):
            del signature
            kind = ir.VectorType(F32, 4)
            value = ir.Constant(kind, ir.Undefined)
            for k in range(4):
                value = builder.insert_element(value, args[2 + k], ir.Constant(I32, k))
            builder.store(value, _at(builder, args[0], args[1], kind)).align = 16
            return context.get_dummy_value()

        return types.void(base, types.int64, *[types.float32] * 4), generate

    @intrinsic
    def dp4a(typing, a, b, c):
        def generate(context, builder, signature, args):
            del context, signature
            kind = ir.FunctionType(I32, [I32] * 3)
            text = "dp4a.s32.s32 $0,$1,$2,$3;"
            return builder.call(ir.InlineAsm(kind, text, "=r,r,r,r", False), args)

        return types.int32(types.int32, types.int32, types.int32), generate

    @intrinsic
    def mma_s8(typing, a, b, c):
        def generate(context, builder, signature, args):
            del context, signature
            text = (
                "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {$0,$1,$2,$3},{$4,$5,$6,$7},"
                "{$8,$9},{$10,$11,$12,$13};"
            )
            inputs = [
                builder.extract_value(part, k)
                for part, size in zip(args, (4, 2, 4), strict=True)
                for k in range(size)
            ]
            kind = ir.FunctionType(ir.LiteralStructType([I32] * 4), [I32] * 10)
            asm = ir.InlineAsm(kind, text, ",".join(["=r"] * 4 + ["r"] * 10), True)
            made = builder.call(asm, inputs)
            return cgutils.pack_array(builder, [builder.extract_value(made, k) for k in range(4)])

        words = [types.UniTuple(types.int32, size) for size in (4, 2, 4)]
        return words[0](*words), generate

    @intrinsic
    def quotient_rest(typing, x, q, s):
        def generate(context, builder, signature, args):
            del context, signature
            kind = ir.FunctionType(F32, [F32] * 3)
            text = "{ .reg .f32 t; neg.f32 t, $2; fma.rn.f32 $0, t, $3, $1; }"
            return builder.call(ir.InlineAsm(kind, text, "=f,f,f,f", False), args)

        return types.float32(types.float32, types.float32, types.float32), generate

    @intrinsic
    def nearest(typing, x):
        def generate(context, builder, signature, args):
            del context, signature
            kind = ir.FunctionType(F32, [F32])
            text = "cvt.rni.f32.f32 $0,$1;"
            return builder.call(ir.InlineAsm(kind, text, "=f,f", False), args)

        return types.float32(types.float32), generate

    @intrinsic
    def product(typing, a, b):
        def generate(context, builder, signature, args):
            del context, signature
            kind = ir.FunctionType(F32, [F32] * 2)
            return builder.call(ir.InlineAsm(kind, "mul.rn.f32 $0,$1,$2;", "=f,f,f", False), args)

        return types.float32(types.float32, types.float32), generate

    @intrinsic
    def byte_to_float(typing, word, place):
        def generate(context, builder, signature, args):
            del context, signature
            parts = builder.bitcast(args[0], ir.VectorType(I8, 4))
            return builder.sitofp(builder.extract_element(parts, builder.trunc(args[1], I32)), F32)

        return types.float32(types.int32, types.int64), generate

    @intrinsic
    def half_to_float(typing, word, place):
        def generate(context, builder, signature, args):
            del context, signature
            parts = builder.bitcast(args[0], ir.VectorType(I16, 2))
            half = builder.extract_element(parts, builder.trunc(args[1], I32))
            return builder.fpext(builder.bitcast(half, ir.HalfType()), F32)

        return types.float32(types.int32, types.int64), generate

    @intrinsic
    def short_to_float(typing, bits):
        def generate(context, builder, signature, args):
            del context, signature
            return builder.fpext(builder.bitcast(args[0], ir.HalfType()), F32)

        return types.float32(types.uint16), generate

    @intrinsic
    def word_to_float(typing, word):
        def generate(context, builder, signature, args):
            del context, signature
            return builder.bitcast(args[0], F32)

        return types.float32(types.int32), generate

    @intrinsic
    def float_to_word(typing, value):
        def generate(context, builder, signature, args):
            del context, signature
            return builder.bitcast(args[0], I32)

        return types.int32(types.float32), generate
