"""Objects become callable code without LLVM, or by it where their form is not the simple one."""

import ctypes
import sys
from pathlib import Path

import llvmlite.ir as ll
import pytest

from tilth.cpu.emit import F32, I64, Emitter
from tilth.cpu.isa import ISAS, host_isa
from tilth.cpu.jit import compile_object, new_module
from tilth.cpu.loader import LinkedElf, LoadedCode, UnfamiliarError

simple = pytest.mark.skipif(
    sys.platform != "linux" or not host_isa().triple.startswith("x86_64"),
    reason="only objects for x86-64 on Linux are placed without LLVM",
)


def power_object(isa=None) -> bytes:
    """`float scaled_power(float)`: twice the power 1.5, by the C library's function."""
    isa = isa or host_isa()
    module = new_module(isa, "test")
    e = Emitter(module, isa, "scaled_power", [F32], F32)
    power = e.b.call(e.declare("powf", F32, [F32, F32]), [e.args[0], F32(1.5)])
    e.b.ret(e.b.fmul(power, F32(2.0)))
    e.finish()
    return compile_object(module, isa)


def counter_object() -> bytes:
    """`int64 next()`: how often it was called, kept in a variable of the object."""
    isa = host_isa()
    module = new_module(isa, "test")
    count = ll.GlobalVariable(module, I64, "count")
    count.initializer, count.linkage = I64(0), "internal"
    e = Emitter(module, isa, "next", [], I64)
    e.b.store(e.b.add(e.b.load(count), I64(1)), count)
    e.b.ret(e.b.load(count))
    e.finish()
    return compile_object(module, isa)


def permissions(address: int) -> str:
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, allowed = line.split()[:2]
        start, end = (int(edge, 16) for edge in span.split("-"))
        if start <= address < end:
            return allowed[:3]
    raise LookupError(hex(address))


def test_constants_and_functions_of_the_c_library_are_found():
    loaded = LoadedCode([power_object()], ("scaled_power",))
    function = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_float)(loaded.address("scaled_power"))
    assert function(4.0) == 16.0


def test_data_that_is_written_is_left_to_llvm():
    with pytest.raises(UnfamiliarError):
        LinkedElf(counter_object())
    loaded = LoadedCode([counter_object()], ("next",))
    function = ctypes.CFUNCTYPE(ctypes.c_int64)(loaded.address("next"))
    assert [function(), function()] == [1, 2]


@simple
def test_code_can_be_run_and_not_written():
    linked = LinkedElf(power_object())
    assert permissions(linked.addresses["scaled_power"]) == "r-x"


def test_objects_call_functions_of_those_before_them():
    isa = host_isa()
    module = new_module(isa, "test")
    e = Emitter(module, isa, "negative", [F32], F32)
    e.b.ret(e.b.fneg(e.b.call(e.declare("scaled_power", F32, [F32]), [e.args[0]])))
    e.finish()
    loaded = LoadedCode([power_object(), compile_object(module, isa)], ("negative",))
    function = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_float)(loaded.address("negative"))
    assert function(4.0) == -16.0


@simple
def test_unknown_functions_are_told():
    isa = host_isa()
    module = new_module(isa, "test")
    e = Emitter(module, isa, "caller", [])
    e.b.call(e.declare("no_such_function", F32, []), [])
    e.finish()
    with pytest.raises(UnfamiliarError, match="no_such_function"):
        LinkedElf(compile_object(module, isa))


@pytest.mark.parametrize("code", [b"", b"\x7fELF", bytes(100), power_object(ISAS["neon"])])
def test_other_objects_are_refused(code: bytes):
    with pytest.raises(UnfamiliarError):
        LinkedElf(code)


@simple
def test_an_object_cut_short_is_an_error():
    code = power_object()
    for length in range(64, len(code), 97):
        with pytest.raises(Exception):  # noqa: B017  (whatever finds it; compiling again follows)
            LinkedElf(code[:length])
