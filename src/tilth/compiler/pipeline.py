"""The passes, in order. Read this file to know what happens to a graph.

The shared passes run on the whole model, before placement; the target passes run on each region,
chosen by the traits of the target that will compile it. Both then run on the graphs inside control
flow. `TILTH_SHOW=passes` prints the graph after each pass; `TILTH_VERIFY=1` checks it.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tilth.compiler import (
    dilation,
    frames,
    integer_products,
    padding,
    scales,
    transposed_convolution,
)
from tilth.compiler.attention_blocks import block_attention
from tilth.compiler.cse import merge_common_subexpressions
from tilth.compiler.decompose import decompose
from tilth.compiler.fold import fold_constants
from tilth.compiler.fuse import fuse
from tilth.compiler.layout import assign_layouts
from tilth.compiler.log import LogEntry
from tilth.compiler.merge_dots import merge_dots
from tilth.compiler.simplify import algebra, hoist, movement, tables
from tilth.compiler.subgraphs import map_subgraphs, sink_constants
from tilth.ir.graph import Graph
from tilth.ir.rewrite import Rule, rewrite
from tilth.ir.text import to_text
from tilth.ir.verify import verify
from tilth.runtime.target import Options, Traits

Apply = Callable[[Graph, Traits], Graph | tuple[Graph, list[LogEntry]]]


@dataclass(frozen=True)
class Pass:
    """A named step; `wanted` says for which targets."""

    name: str
    apply: Apply
    wanted: Callable[[Traits], bool] = lambda traits: True


@dataclass(frozen=True)
class PipelineResult:
    """The rewritten graph, and what the passes did and missed."""

    graph: Graph
    log: list[LogEntry] = field(default_factory=list)


def _table(*rules: Rule) -> Apply:
    return lambda graph, traits: _logged(*rewrite(graph, rules))


def _logged(graph: Graph, fired: Counter[str]) -> tuple[Graph, list[LogEntry]]:
    return graph, [LogEntry("", "rewrote", (), f"{name} x{n}") for name, n in fired.items()]


def _channels_last(traits: Traits) -> bool:
    return traits.layout == "channels_last"


def _function(fn: Callable[[Graph], Graph | tuple[Graph, list[LogEntry]]]) -> Apply:
    return lambda graph, traits: fn(graph)


SIMPLIFY = Pass("simplify", _table(*algebra.RULES, *movement.RULES, *hoist.RULES, *tables.RULES))
FOLD = Pass("fold constants", _function(fold_constants))
MERGE = Pass("common subexpressions", _function(merge_common_subexpressions))
SINK = Pass("sink constants", _function(sink_constants))

SHARED = (FOLD, SIMPLIFY, FOLD, MERGE, SINK)

TARGET = (
    Pass("integer products", _table(*integer_products.RULES), lambda traits: traits.byte_products),
    Pass(
        "attention in blocks",
        lambda graph, traits: block_attention(
            graph, traits.most_score_bytes, traits.streams_attention
        ),
        lambda traits: traits.most_score_bytes > 0 and not traits.shared_heads,
    ),
    Pass("decompose", lambda graph, traits: decompose(graph, traits.composites)),
    *(FOLD, SIMPLIFY),
    Pass("fold scales", _table(*scales.RULES)),
    *(FOLD, MERGE),
    Pass("channels last", _function(assign_layouts), _channels_last),
    Pass("pixel shuffle", _table(*transposed_convolution.RULES), _channels_last),
    Pass("frames", _table(*frames.RULES), lambda traits: traits.images_for_volumes),
    Pass("interleaved images", _table(*dilation.RULES), lambda traits: traits.dense_windows),
    *(SIMPLIFY, FOLD),
    Pass("explicit padding", _table(*padding.RULES), lambda traits: traits.explicit_padding),
    Pass("merge dots", _function(merge_dots)),
    *(SIMPLIFY, FOLD, MERGE, SINK),
    Pass("fuse", _function(fuse), lambda traits: traits.fuses),
)


def run_shared(graph: Graph, options: Options) -> PipelineResult:
    """What every target profits from; before placement."""
    return _run(graph, SHARED, Traits())


def run_target(region: Graph, traits: Traits, options: Options) -> PipelineResult:
    """What one target wants; on a region it will compile."""
    if options.precision == "exact":
        traits = traits.term_by_term()
    return _run(region, [p for p in TARGET if p.wanted(traits)], traits)


def run_pipeline(graph: Graph, traits: Traits, options: Options) -> PipelineResult:
    """Both, for a graph that one target runs whole."""
    shared = run_shared(graph, options)
    target = run_target(shared.graph, traits, options)
    return PipelineResult(target.graph, shared.log + target.log)


def _run(graph: Graph, passes: Sequence[Pass], traits: Traits) -> PipelineResult:
    show = "passes" in os.environ.get("TILTH_SHOW", "").split(",")
    check = os.environ.get("TILTH_VERIFY", "0") == "1"
    log: list[LogEntry] = []
    for step in passes:
        result = step.apply(graph, traits)
        graph, entries = result if isinstance(result, tuple) else (result, [])
        entries = [replace(entry, pass_name=step.name) for entry in entries]
        log += entries
        if show:
            print(f"// {step.name}", *(f"//   {e}" for e in entries), sep="\n", file=sys.stderr)
            print(to_text(graph), file=sys.stderr)
        if check:
            verify(graph)

    def inner(subgraph: Graph) -> Graph:
        result = _run(subgraph, passes, traits)
        log.extend(result.log)
        return result.graph

    return PipelineResult(map_subgraphs(graph, inner), log)


def node_counts(graph: Graph) -> Counter[str]:
    """How many nodes of each kind a graph has; fusions count as `fusion:KIND`."""
    return Counter(f"fusion:{n.attrs['kind']}" if n.op == "fusion" else n.op for n in graph.nodes)
