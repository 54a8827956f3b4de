"""From a fused region to machine code and packed weights: the steps of compiling, in order.

Imported when something is compiled; a process that finds its models in the cache does without it,
and without all kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tilth.cpu.emit import forbid_contraction
from tilth.cpu.isa import Isa
from tilth.cpu.jit import compile_objects
from tilth.cpu.memory import assign
from tilth.cpu.plan import plan
from tilth.cpu.program import emit_program, scratch_bytes
from tilth.cpu.region import CpuRegion
from tilth.cpu.steps import Item, Loop, Step, all_steps, work
from tilth.cpu.tuner import Tuner
from tilth.ir.graph import Graph, Node
from tilth.ir.limits import memory_limit, require_memory
from tilth.runtime.cache import default_cache
from tilth.runtime.target import KernelInfo, Options

# Work below which a second thread costs more than it saves (some 30 us on one core): it may have to
# be woken, and each barrier takes the better part of a microsecond.
_SERIAL_FLOPS = 4_000_000
_SERIAL_BYTES = 800_000


def build(region: Graph, isa: Isa, options: Options) -> CpuRegion:
    """Compile a region for `isa`. Raises CompileError, LimitError."""
    threads, exact = options.threads, options.precision == "exact"
    steps = plan(region, isa, threads, exact)
    if threads > 1 and _is_tiny(steps):
        threads = 1
        steps = plan(region, isa, threads, exact)
    if options.tune:
        steps = plan(region, isa, threads, exact, Tuner(default_cache()))
    memory = assign(steps)
    own = memory.weight_bytes + sum(v.tensor.nbytes for v in region.inputs)
    require_memory("the arena of intermediate results", memory.arena_bytes, memory_limit(own))
    with ThreadPoolExecutor(1) as pool:  # copying weights, like LLVM, lets other threads run
        weights = pool.submit(memory.pack_weights, options.allocate)
        modules = emit_program(steps, memory, len(region.inputs), isa, threads)
        code = compile_objects(map(forbid_contraction, modules) if exact else modules, isa)
    return CpuRegion(
        code=code,
        weights=weights.result(),
        inputs=tuple(v.tensor for v in region.inputs),
        outputs=tuple(v.tensor for v in region.outputs),
        kernels=tuple(_info(step) for step in steps),
        arena_bytes=memory.arena_bytes,
        scratch_bytes=scratch_bytes(steps),
        threads=threads,
    )


def _is_tiny(items: Sequence[Item]) -> bool:
    """Is there little to do between barriers? A loop counts as one turn."""
    found = [step.kernel for step in all_steps(items)]
    flops, nbytes = sum(k.flops for k in found), sum(k.bytes for k in found)
    return flops < _SERIAL_FLOPS and nbytes < _SERIAL_BYTES


def _info(item: Item) -> KernelInfo:
    flops, nbytes = work(item)
    if not isinstance(item, Step):
        inside = list(all_steps([item]))
        names = tuple(dict.fromkeys(name for step in inside for name in _names(step.node)))
        turns = f"{item.trips} x " if isinstance(item, Loop) and item.trips is not None else ""
        return KernelInfo(item.node.op, names, f"{turns}{len(inside)} kernels", flops, nbytes)
    kernel = item.kernel
    return KernelInfo(kernel.name, _names(item.node), kernel.algorithm, flops, nbytes)


def _names(node: Node) -> tuple[str, ...]:
    """The nodes that a kernel for `node` computes, by name or op."""
    nodes = node.attrs["body"].nodes if node.op == "fusion" else (node,)
    return tuple(dict.fromkeys(n.name or n.op for n in nodes if n.op != "constant"))
