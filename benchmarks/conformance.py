"""Run the official ONNX backend tests and write the table of operators, `docs/onnx.md`.

usage: conformance.py [--include REGEX] [--write]

All tests that the `onnx` package brings along are run through `tilth.onnx.backend`, with its own
rules of comparison: count, dtype and shape exact, values within the test's tolerances. Six tests of
Bernoulli draw random numbers; of these only dtype, shape and range are compared.
"""

from __future__ import annotations

import argparse
import glob
import multiprocessing
import os
import re
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.backend.test.case.node as node_suite
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from tilth.onnx.backend import Prepared

PAGE = Path(__file__).parent.parent / "docs" / "onnx.md"
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator", "real")
COMPILED_COMMONLY = "compiled for common types"
RANDOM = re.compile(r"test_bernoulli(_double|_seed)?(_expanded)?")
_BFLOAT16_RTOL = 2.0**-6  # as the suite has it
# What models mostly hold; not strings and sequences, nor floats and integers below eight bits.
COMMON = frozenset(
    {
        *("float16", "bfloat16", "float32", "float64", "bool"),
        *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    }
)


@dataclass(frozen=True)
class Case:
    """One official test: a model, and pairs of inputs and expected outputs."""

    name: str
    kind: str
    operator: str  # the one under test, of a node test
    model: Any
    data: Sequence[tuple[Sequence[Any], Sequence[Any]]]
    rtol: float
    atol: float

    @property
    def has_common_types(self) -> bool:
        """Whether all inputs and outputs are tensors of common element types."""
        values = (v for inputs, outputs in self.data for v in (*inputs, *outputs))
        return all(str(getattr(v, "dtype", None)) in COMMON for v in values)

    @property
    def is_expanded(self) -> bool:
        """Whether the operator is replaced by the body of its function."""
        return "_expanded" in self.name


@dataclass(frozen=True)
class Outcome:
    """How a test went: the fault ("" if none), and what ran outside of compiled code."""

    case: str
    fault: str
    host: tuple[str, ...] = ()


def cases() -> Iterator[Case]:
    """All tests of the installed `onnx` package."""
    warnings.simplefilter("ignore")
    for kind in KINDS:
        for test in sorted(load_model_tests(kind=kind), key=lambda t: t.name):
            model, data = _contents(test)
            operator = _operator(test.name) if kind == "node" else ""
            yield Case(test.name, kind, operator, model, data, test.rtol, test.atol)


def _operator(name: str) -> str:
    """The operator that a node test is about."""
    node = node_suite._existing_names[re.sub(r"(_expanded(_ver\d+)?)+$", "", name)]
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type


def _contents(test: Any) -> tuple[Any, list[tuple[list[Any], list[Any]]]]:
    if test.model is not None:
        return test.model, [(_values(i), _values(o)) for i, o in test.data_sets]
    if test.url and "data/light/" in test.url:
        return _light_model(test)
    model = onnx.load(os.path.join(test.model_dir, "model.onnx"))
    folders = sorted(glob.glob(os.path.join(test.model_dir, "test_data_set*")))
    return model, [
        (_stored(d, "input", model.graph.input), _stored(d, "output", model.graph.output))
        for d in folders
    ]


def _light_model(test: Any) -> tuple[Any, list[tuple[list[Any], list[Any]]]]:
    """A model of the "real" kind, with inputs made as the suite makes them."""
    path = Path(onnx.__file__).parent.parent / test.url
    model = onnx.load(path)
    weights = {t.name for t in model.graph.initializer}
    fed = [v for v in model.graph.input if v.name not in weights]
    inputs = [Runner.generate_dummy_data(v, seed=0, name=test.name) for v in fed]
    stem = path.with_suffix("")
    return model, [
        (
            inputs,
            [_proto(f"{stem}_output_{i}.pb", v.type) for i, v in enumerate(model.graph.output)],
        )
    ]


def _values(values: Sequence[Any]) -> list[Any]:
    return [onnx.numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values]


def _stored(folder: str, kind: str, ends: Sequence[Any]) -> list[Any]:
    count = len(glob.glob(os.path.join(folder, f"{kind}_*.pb")))
    return [_proto(os.path.join(folder, f"{kind}_{i}.pb"), ends[i].type) for i in range(count)]


def _proto(path: str, type_: Any) -> Any:
    kinds = {
        "sequence_type": (onnx.SequenceProto, onnx.numpy_helper.to_list),
        "optional_type": (onnx.OptionalProto, onnx.numpy_helper.to_optional),
    }
    make, decode = kinds.get(
        type_.WhichOneof("value"), (onnx.TensorProto, onnx.numpy_helper.to_array)
    )
    return decode(make.FromString(Path(path).read_bytes()))


def run(case: Case) -> Outcome:
    """Run one test."""
    try:
        prepared = Prepared(case.model)
        for inputs, expected in case.data:
            compare(case, prepared.run(inputs), expected)
        return Outcome(case.name, "", tuple(f"{h.op}: {h.why}" for h in prepared.report.host_ops))
    except Exception as e:  # whatever goes wrong is the outcome
        return Outcome(case.name, f"{type(e).__name__}: {e}".split("\n")[0][:200])


def compare(case: Case, got: Any, want: Any) -> None:
    """Raise AssertionError unless a value, or list of values, is as expected."""
    if want is None or got is None:
        assert want is got, f"expected {type(want).__name__}, got {type(got).__name__}"
    elif isinstance(want, (list, tuple)):
        assert isinstance(got, (list, tuple)), f"expected a sequence, got {type(got).__name__}"
        assert len(got) == len(want), f"expected {len(want)} values, got {len(got)}"
        for one, other in zip(got, want, strict=True):
            compare(case, one, other)
    else:
        _compare_arrays(case, np.asarray(got), np.asarray(want))


def _compare_arrays(case: Case, got: np.ndarray, want: np.ndarray) -> None:
    assert got.shape == want.shape, f"expected shape {want.shape}, got {got.shape}"
    if want.dtype.kind in "OUS":
        assert [str(x) for x in got.flat] == [str(x) for x in want.flat], "strings differ"
        return
    assert got.dtype == want.dtype, f"expected {want.dtype}, got {got.dtype}"
    if RANDOM.fullmatch(case.name):
        assert np.isin(got, (0, 1)).all(), "expected zeros and ones"
        return
    rtol = max(case.rtol, _BFLOAT16_RTOL) if want.dtype.name == "bfloat16" else case.rtol
    if want.dtype.kind == "V":  # types of ml_dtypes
        got, want = got.astype(np.float32), want.astype(np.float32)
    np.testing.assert_allclose(got, want, rtol, case.atol)


def page(all_cases: Sequence[Case], outcomes: Sequence[Outcome]) -> str:
    """`docs/onnx.md`: totals by kind, and a row for each operator."""
    found = {o.case: o for o in outcomes}
    by_operator: dict[str, list[Case]] = defaultdict(list)
    by_kind: dict[str, list[Case]] = defaultdict(list)
    for case in all_cases:
        by_kind[case.kind].append(case)
        if case.operator:
            by_operator[case.operator].append(case)
    rows = [_operator_row(name, group, found) for name, group in sorted(by_operator.items())]
    compiled = sum(row.endswith("| compiled |") for row in rows)
    commonly = compiled + sum(f"| {COMPILED_COMMONLY}" in row for row in rows)
    passed = sum(not o.fault for o in outcomes)
    return "\n".join(
        [
            "# ONNX operators",
            "",
            f"Generated by `make conformance`, with the official backend tests of onnx "
            f"{onnx.__version__}. {passed} of {len(outcomes)} pass; {len(rows)} operators are "
            f"tested, of which {compiled} run in compiled code alone, and {commonly} with "
            "floats of 16 bits and more, integers of 8 and more, or bool.",
            "",
            "| kind of test | passed | of |",
            "|---|--:|--:|",
            *(_kind_row(kind, group, found) for kind, group in by_kind.items()),
            "",
            "*Runs* says what its own tests show, without the variants in which the operator is "
            "replaced by the body of its function.",
            "",
            "| operator | passed | of | runs |",
            "|---|--:|--:|---|",
            *rows,
            "",
        ]
    )


def _kind_row(kind: str, group: Sequence[Case], found: dict[str, Outcome]) -> str:
    return f"| {kind} | {sum(not found[c.name].fault for c in group)} | {len(group)} |"


def _operator_row(name: str, group: Sequence[Case], found: dict[str, Outcome]) -> str:
    own = [c for c in group if not c.is_expanded] or group
    passed = sum(not found[c.name].fault for c in group)
    return f"| {name} | {passed} | {len(group)} | {_runs(own, found)} |"


def _runs(own: Sequence[Case], found: dict[str, Outcome]) -> str:
    """Where an operator runs in its own tests, and why not in compiled code."""
    host = [c for c in own if found[c.name].host]
    if not host:
        return "compiled"
    reasons = "; ".join(dict.fromkeys(found[c.name].host[0] for c in host))
    where = f"on the host in {len(host)} of {len(own)} ({_cell(reasons)})"
    common = [c for c in own if c.has_common_types]
    if common and not any(found[c.name].host for c in common):
        return f"{COMPILED_COMMONLY}; {where}"
    return where


def _cell(text: str) -> str:
    """Text for a cell of a table: short and without what would end the cell."""
    return re.sub(r"node '[^']*' \(\w+\): ", "", text).replace("|", "/")[:120]


_CASES: list[Case] = []  # of this process; its children inherit them


def _run_numbered(number: int) -> Outcome:
    return run(_CASES[number])


def main() -> None:
    arguments = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    arguments.add_argument("--include", default="", help="only tests whose name matches")
    arguments.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    options = arguments.parse_args()
    _CASES.extend(c for c in cases() if re.search(options.include, c.name))
    with multiprocessing.get_context("fork").Pool(maxtasksperchild=200) as pool:
        outcomes = pool.map(_run_numbered, range(len(_CASES)), chunksize=20)
    faults = [o for o in outcomes if o.fault]
    for outcome in faults:
        print(f"{outcome.case}: {outcome.fault}")
    print(f"{len(outcomes) - len(faults)} of {len(outcomes)} official tests passed")
    if options.write:
        PAGE.write_text(page(_CASES, outcomes))
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
