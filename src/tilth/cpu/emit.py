"""A thin layer over llvmlite's IR builder: loops, vectors, byte addressing.

Every kernel is written against `Emitter`. Vectors are `<n x T>` of any n; LLVM splits what the
machine does not have. Booleans live in memory as one byte (0 or 1) and in registers as i1.
Mutable loop state is an `alloca` (`Emitter.var`), which LLVM turns into registers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import llvmlite.ir as ll

from tilth.cpu.isa import Isa
from tilth.ir.types import DType

I1, I8, I16, I32, I64 = (ll.IntType(bits) for bits in (1, 8, 16, 32, 64))
F32, F64 = ll.FloatType(), ll.DoubleType()
PTR = ll.PointerType()
VOID = ll.VoidType()

Val: TypeAlias = ll.Value


def llvm_type(dtype: DType) -> ll.Type:
    """The register type of an element (i1 for bool)."""
    if dtype.name == "bool":
        return I1
    if dtype.name == "f16":
        return ll.HalfType()
    if dtype.name in ("f32", "f64"):
        return F32 if dtype.name == "f32" else F64
    if dtype.is_integer and dtype.bits >= 8:
        return ll.IntType(dtype.bits)
    raise NotImplementedError(f"no machine type for {dtype}")


def element(type_: ll.Type) -> ll.Type:
    """The element type of a vector, or the type itself."""
    return type_.element if isinstance(type_, ll.VectorType) else type_


def width(type_: ll.Type) -> int:
    """Number of lanes of a vector; 1 for a scalar."""
    return type_.count if isinstance(type_, ll.VectorType) else 1


def vector(type_: ll.Type, n: int) -> ll.Type:
    """`<n x type>`, or the scalar type when n is 1."""
    return type_ if n == 1 else ll.VectorType(element(type_), n)


def splat_constant(type_: ll.Type, value: float | int) -> ll.Constant:
    """A constant of a scalar or vector type with all lanes equal."""
    if isinstance(type_, ll.VectorType):
        return ll.Constant(type_, [ll.Constant(type_.element, value)] * type_.count)
    return ll.Constant(type_, value)


class Emitter:
    """Builds one function. `b` is the llvmlite builder for everything not wrapped here."""

    def __init__(
        self,
        module: ll.Module,
        isa: Isa,
        name: str,
        args: Sequence[ll.Type],
        result: ll.Type = VOID,
    ):
        self.module, self.isa = module, isa
        self.fn = ll.Function(module, ll.FunctionType(result, args), name)
        self.fn.attributes.add("nounwind")
        self.args = self.fn.args
        self._entry = self.fn.append_basic_block("entry")
        self.b = ll.IRBuilder(self.fn.append_basic_block("body"))
        self._allocas = ll.IRBuilder(self._entry)

    def finish(self) -> ll.Function:
        """Terminate the function (returns void if no return was emitted) and give it back."""
        if not self.b.block.is_terminated:
            self.b.ret_void()
        self._allocas.branch(self.fn.blocks[1])
        return self.fn

    # -- values ------------------------------------------------------------------------------
    def i64(self, value: int | Val) -> Val:
        return ll.Constant(I64, value) if isinstance(value, int) else value

    def const(self, type_: ll.Type, value: float | int) -> Val:
        return splat_constant(type_, value)

    def splat(self, scalar: Val, n: int) -> Val:
        """A vector with all `n` lanes equal to `scalar` (the scalar itself for n = 1)."""
        if n == 1:
            return scalar
        if isinstance(scalar, ll.Constant):
            return ll.Constant(ll.VectorType(scalar.type, n), [scalar] * n)
        one = self.b.insert_element(
            ll.Constant(ll.VectorType(scalar.type, n), ll.Undefined), scalar, ll.Constant(I32, 0)
        )
        mask = ll.Constant(ll.VectorType(I32, n), [0] * n)
        return self.b.shuffle_vector(one, ll.Constant(one.type, ll.Undefined), mask)

    def iota(self, n: int, element_type: ll.Type = I64) -> Val:
        """The constant vector 0, 1, ... n-1 (0 for n = 1)."""
        if n == 1:
            return ll.Constant(element_type, 0)
        return ll.Constant(ll.VectorType(element_type, n), list(range(n)))

    # -- memory ------------------------------------------------------------------------------
    def offset(self, ptr: Val, nbytes: int | Val) -> Val:
        """`ptr` advanced by a byte count."""
        if isinstance(nbytes, int) and nbytes == 0:
            return ptr
        return self.b.gep(ptr, [self.i64(nbytes)], inbounds=True, source_etype=I8)

    def load(self, ptr: Val, type_: ll.Type, align: int | None = None) -> Val:
        """Load a scalar or vector; default alignment is that of one element."""
        return self.b.load(ptr, typ=type_, align=align or _element_bytes(type_))

    def store(self, value: Val, ptr: Val, align: int | None = None) -> None:
        self.b.store(value, ptr, align=align or _element_bytes(value.type))

    def load_broadcast(self, ptr: Val, type_: ll.Type, n: int) -> Val:
        return self.splat(self.load(ptr, element(type_)), n)

    def masked_load(
        self, ptr: Val, type_: ll.VectorType, count: int | Val, fill: Val | None = None
    ) -> Val:
        """Load the first `count` lanes; the others are `fill` (zero by default)."""
        fill = fill if fill is not None else ll.Constant(type_, None)
        args = [ptr, self.lane_mask(type_.count, count), fill]
        return self._memory_intrinsic("llvm.masked.load", type_, type_, args)

    def masked_store(self, value: Val, ptr: Val, count: int | Val) -> None:
        """Store the first `count` lanes."""
        args = [value, ptr, self.lane_mask(value.type.count, count)]
        self._memory_intrinsic("llvm.masked.store", VOID, value.type, args)

    def lane_mask(self, n: int, count: int | Val) -> Val:
        """`<n x i1>` with the first `count` lanes set."""
        if isinstance(count, int):
            return ll.Constant(ll.VectorType(I1, n), [int(i < count) for i in range(n)])
        return self.b.icmp_signed("<", self.iota(n), self.splat(count, n))

    def _memory_intrinsic(self, name: str, result: ll.Type, type_: ll.Type, args: list[Val]) -> Val:
        fn = self.declare(f"{name}.{mangle(type_)}.p0", result, [a.type for a in args])
        return self.b.call(fn, args)

    def var(self, type_: ll.Type, initial: Val | None = None) -> Val:
        """A stack slot for mutable state; read with `load`, write with `store`."""
        slot = self._allocas.alloca(type_)
        if initial is not None:
            self.b.store(initial, slot)
        return slot

    # -- arithmetic --------------------------------------------------------------------------
    def declare(self, name: str, result: ll.Type, args: Sequence[ll.Type]) -> ll.Function:
        """An external function (an intrinsic or a libc/libm symbol), declared once."""
        if name in self.module.globals:
            return self.module.globals[name]
        return ll.Function(self.module, ll.FunctionType(result, args), name)

    def intrinsic(self, name: str, *args: Val) -> Val:
        """Call an overloaded `llvm.NAME.TYPE` whose operands and result share one type."""
        type_ = args[0].type
        fn = self.declare(f"llvm.{name}.{mangle(type_)}", type_, [a.type for a in args])
        return self.b.call(fn, list(args))

    def fma(self, x: Val, y: Val, z: Val) -> Val:
        """x * y + z, fused where the machine can."""
        return self.intrinsic("fma" if self.isa.fma else "fmuladd", x, y, z)

    def byte_dot(self, x: Val, y: Val, z: Val) -> Val:
        """z + the sum of four products of the unsigned bytes of x and the signed ones of y, in each
        32-bit lane; only where the machine can."""
        type_ = z.type
        fn = self.declare(f"{self.isa.byte_dot}.{32 * width(type_)}", type_, [type_] * 3)
        return self.b.call(fn, [z, x, y])

    # -- control flow ------------------------------------------------------------------------
    @contextmanager
    def loop(self, start: int | Val, stop: int | Val, step: int | Val = 1) -> Iterator[Val]:
        """`for i in range(start, stop, step)`: yields i as an i64. Runs zero times if empty."""
        start, stop, step = self.i64(start), self.i64(stop), self.i64(step)
        head = self.fn.append_basic_block("loop")
        body = self.fn.append_basic_block("loop.body")
        done = self.fn.append_basic_block("loop.done")
        before = self.b.block
        self.b.branch(head)
        self.b.position_at_end(head)
        index = self.b.phi(I64)
        index.add_incoming(start, before)
        self.b.cbranch(self.b.icmp_signed("<", index, stop), body, done)
        self.b.position_at_end(body)
        yield index
        index.add_incoming(self.b.add(index, step, flags=["nsw"]), self.b.block)
        self.b.branch(head)
        self.b.position_at_end(done)

    @contextmanager
    def when(self, condition: Val) -> Iterator[None]:
        """Emit the body under an i1 condition."""
        then = self.fn.append_basic_block("then")
        done = self.fn.append_basic_block("endif")
        self.b.cbranch(condition, then, done)
        self.b.position_at_end(then)
        yield
        if not self.b.block.is_terminated:
            self.b.branch(done)
        self.b.position_at_end(done)


def forbid_contraction(module: ll.Module) -> ll.Module:
    """The module, in which no product and sum become one instruction that rounds once, where
    kernels allow it."""
    for function in module.functions:
        for block in function.blocks:
            for instruction in block.instructions:
                instruction.flags = [f for f in instruction.flags if f != "contract"]
    return module


def mangle(type_: ll.Type) -> str:
    """The suffix LLVM gives an overloaded intrinsic for this type."""
    if isinstance(type_, ll.VectorType):
        return f"v{type_.count}{mangle(type_.element)}"
    names: dict[Any, str] = {F32: "f32", F64: "f64", ll.HalfType(): "f16"}
    return names.get(type_) or f"i{type_.width}"


def _element_bytes(type_: ll.Type) -> int:
    scalar = element(type_)
    if isinstance(scalar, ll.IntType):
        return max(1, scalar.width // 8)
    return {F32: 4, F64: 8, ll.HalfType(): 2}.get(scalar, 8)
