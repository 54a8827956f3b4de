"""From LLVM IR to an object, and from an object to callable code where `cpu.loader` cannot.

The object is relocatable and holds no address of this process, so the same bytes serve the disk
cache, another process, and a library built ahead of time.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import llvmlite.binding as llvm
import llvmlite.ir as ll

from tilth.cpu.isa import Isa
from tilth.ir.errors import CompileError

_names = itertools.count()
_switch = threading.Lock()


@functools.cache
def _initialise() -> None:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()


def target_machine(isa: Isa) -> llvm.TargetMachine:
    """LLVM's view of the machine we emit for."""
    _initialise()
    return llvm.Target.from_triple(isa.triple).create_target_machine(
        cpu=isa.cpu, features=isa.features, opt=2, reloc="pic", codemodel="small"
    )


def new_module(isa: Isa, name: str) -> ll.Module:
    module = ll.Module(name)
    module.triple = isa.triple
    module.data_layout = _data_layout(isa)
    return module


@functools.cache
def _data_layout(isa: Isa) -> str:
    """Kept: LLVM would not answer while it compiles another module."""
    return str(target_machine(isa).target_data)


def optimise(text: str, isa: Isa) -> tuple[llvm.ModuleRef, llvm.TargetMachine]:
    """Parse a module's IR, verify, and tidy: kernels come vectorised, unrolled, and hoisted.

    Three cheap passes turn stack slots into registers and fold what the emitters leave; LLVM's
    full pipeline took ten times as long for code of the same speed.
    """
    machine = target_machine(isa)
    try:
        parsed = llvm.parse_assembly(text)
        parsed.verify()
    except RuntimeError as e:
        raise CompileError(f"the emitted code is not valid LLVM IR; please report this: {e}") from e
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.add_instruction_combine_pass()
    passes.add_simplify_cfg_pass()
    passes.run(parsed, llvm.create_pass_builder(machine, llvm.PipelineTuningOptions()))
    return parsed, machine


def compile_object(module: ll.Module, isa: Isa) -> bytes:
    """Machine code for `isa` as a relocatable object file."""
    return _object_of(str(module), isa)


def _object_of(text: str, isa: Isa) -> bytes:
    parsed, machine = optimise(text, isa)
    with _no_strength_reduction():
        return machine.emit_object(parsed)


@contextmanager
def _no_strength_reduction() -> Iterator[None]:
    """Without a pass that takes a fifth of LLVM's time and finds nothing: pointers of our loops
    are advanced, not multiplied. The switch is the process's, which others use, too: one thread at
    a time, or another's end would switch the pass on in the middle of this one."""
    with _switch:
        llvm.set_option("tilth", "-disable-lsr")
        try:
            yield
        finally:
            llvm.set_option("tilth", "-disable-lsr=false")


def compile_objects(modules: Iterable[ll.Module], isa: Isa) -> tuple[bytes, ...]:
    """The object of each module. One is compiled while the next is emitted: LLVM runs beside
    Python, though not beside itself."""
    with ThreadPoolExecutor(1) as pool:
        objects = [pool.submit(_object_of, str(module), isa) for module in modules]
        return tuple(found.result() for found in objects)


def compile_assembly(module: ll.Module, isa: Isa) -> str:
    """The same as text, for reading and for tests that count instructions."""
    parsed, machine = optimise(str(module), isa)
    with _no_strength_reduction():
        return machine.emit_assembly(parsed)


def linked_by_llvm(
    objects: Sequence[bytes], symbols: tuple[str, ...]
) -> tuple[object, dict[str, int]]:
    """Objects linked into this process while their owner, which is given, lives; the addresses of
    exported functions."""
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    builder = llvm.JITLibraryBuilder().add_current_process()
    for code in objects:
        builder.add_object_img(code)
    for symbol in symbols:
        builder.export_symbol(symbol)
    jit = llvm.create_lljit_compiler()
    library = builder.link(jit, f"program{next(_names)}")
    return (jit, library), {symbol: library[symbol] for symbol in symbols}
