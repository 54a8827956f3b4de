"""If, Loop and Scan: known ones vanish or become scans, others stay control flow."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_helpers import graph, model, op_names, run

from tilth.ir.errors import UnsupportedError

BRANCHES = """
    then_branch = then () => (float[2] t) { t = Add(x, x) },
    else_branch = other () => (float[2] e) { e = Neg(x) }"""
BODY = """ <body = b (int64 i, bool go, float[2] a) => (bool on, float[2] next, float[2] row) {
    on = Identity(go) next = Add(a, x) row = Mul(next, x) }>"""
X = np.array([1, 2], np.float32)


def test_a_known_condition_leaves_only_its_branch():
    text = f"""g (float[2] x) => (float[2] y) {{
        c = Constant<value = bool {{1}}>()
        y = If(c) <{BRANCHES}> }}"""
    assert op_names(graph(text)) == ["add"]


@pytest.mark.parametrize(("flag", "expected"), [(True, [2, 4]), (False, [-1, -2])])
def test_a_condition_that_is_data_selects_a_branch_over_captured_values(flag, expected):
    text = f"g (bool c, float[2] x) => (float[2] y) {{ y = If(c) <{BRANCHES}> }}"
    assert op_names(graph(text)) == ["if"]
    (y,) = run(model(text), np.array(flag), X)
    assert y.tolist() == expected


def test_a_loop_of_known_length_is_a_scan():
    text = f"""g (float[2] x) => (float[2] last, float[3,2] rows) {{
        n = Constant<value_int = 3>()
        last, rows = Loop(n, , x) {BODY} }}"""
    assert "scan" in op_names(graph(text))
    last, rows = run(model(text), X)
    assert last.tolist() == [4, 8]
    assert rows.tolist() == [[2, 8], [3, 12], [4, 16]]


def test_a_loop_whose_length_is_data_is_a_while():
    body = BODY.replace(", float[2] row", "").replace("row = Mul(next, x)", "")
    text = f"g (int64 n, float[2] x) => (float[2] last) {{ last = Loop(n, , x) {body} }}"
    assert "while" in op_names(graph(text))
    (last,) = run(model(text), np.array(3), X)
    assert last.tolist() == [4, 8]


def test_a_loop_that_changes_the_shape_it_carries_is_unrolled():
    text = """g (float[2] x) => (float[N] y) {
        n = Constant<value_int = 2>()
        y = Loop(n, , x) <body = b (int64 i, bool go, float[N] a) => (bool on, float[M] next) {
            on = Identity(go) next = Concat<axis = 0>(a, x) }> }"""
    (y,) = run(model(text), X)
    assert y.tolist() == [1, 2, 1, 2, 1, 2]


def test_rows_of_a_loop_without_known_length_are_refused():
    text = f"""g (bool c, float[2] x) => (float[2] last, float[N,2] rows) {{
        last, rows = Loop(, c, x) {BODY} }}"""
    with pytest.raises(UnsupportedError, match="number of iterations depends on what is fed to c"):
        graph(text)


def test_scan_runs_backwards_over_any_axis():
    text = """g (float[2] x, float[2,3] xs) => (float[2] last, float[2,3] ys) {
        last, ys = Scan<num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
            scan_input_directions = [1], scan_output_directions = [1],
            body = b (float[2] s, float[2] e) => (float[2] t, float[2] o) {
                t = Add(s, e) o = Identity(t) }>(x, xs) }"""
    xs = np.arange(6, dtype=np.float32).reshape(2, 3)
    last, ys = run(model(text), X, xs)
    assert last.tolist() == [4, 14]
    assert ys.tolist() == [[4, 4, 3], [14, 11, 7]]
