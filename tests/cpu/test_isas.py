"""Every kernel for every instruction set: right where it can run, vector code where it cannot."""

import re
import struct

import pytest
from assembly import loops_of
from kernel_check import check
from kernel_samples import SAMPLES

from tilth.cpu.isa import ISAS, host_isa
from tilth.cpu.jit import compile_assembly, compile_object, new_module
from tilth.cpu.kernels import FUSION_KINDS, OPS

RUNS_HERE = [
    isa for isa in ISAS.values() if isa.triple == host_isa().triple and isa.lanes < host_isa().lanes
]
EM_AARCH64, ET_REL = 183, 1  # ELF for the Arm 64-bit architecture; elf.h

each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda s: s.name)


def test_every_kernel_has_a_sample():
    for_matrix_units = {"attention"}  # no machine here but one with such a unit has a kernel
    assert {s.family for s in SAMPLES} >= {*FUSION_KINDS, *OPS} - for_matrix_units


@pytest.mark.parametrize("isa", RUNS_HERE, ids=lambda isa: isa.name)
@each_sample
def test_kernels_are_right_on_lesser_machines(sample, isa):
    check(sample.lower, sample.body, sample.inputs, isas=[isa], constants=sample.constants)


def module_of(sample, isa):
    module = new_module(isa, "test")
    sample.kernel(isa).emit(module, isa, "kernel")
    return module


@each_sample
def test_kernels_become_neon_code(sample):
    """No SVE, no calls of mathematics, and all that multiplies and adds does so on vectors."""
    isa = ISAS["neon"]
    text = compile_assembly(module_of(sample, isa), isa)
    assert not re.search(r"\b[zp]\d+\b", text)
    called = {name for name in re.findall(r"\tbl?\t(\w\S*)", text) if "kernel" not in name}
    assert sample.libm == bool(called - {"memcpy", "memset"})
    loops = loops_of(text)
    if not sample.scalar:
        assert any(is_vector(loop) for loop in loops)
    if sample.multiplies:
        assert "\tfmla\t" in text and not re.search(r"\tfn?m(add|sub)\t", text)
        assert all(is_vector(loop) for loop in loops if re.search(r"\tf\w+\t", loop))


def test_an_arm_object_is_relocatable():
    isa = ISAS["neon"]
    code = compile_object(module_of(SAMPLES[0], isa), isa)
    assert struct.unpack_from("<HH", code, 16) == (ET_REL, EM_AARCH64)


def is_vector(loop: str) -> bool:
    return bool(re.search(r"\bv\d+\.|\bq\d+", loop))
