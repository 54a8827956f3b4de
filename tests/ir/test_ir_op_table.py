"""The op table has no holes: every op has its rules, its documentation and a sample that runs."""

import re
from pathlib import Path

import numpy as np
import pytest
from ir_samples import random_array, sample, tensor

from tilth.ir.errors import VerifyError
from tilth.ir.graph import Node
from tilth.ir.interpreter import decomposition, evaluate
from tilth.ir.ops import DECOMPOSE, INFER, OPS, REFERENCE, has_tag, make, op
from tilth.ir.types import f32

ARCHITECTURE = Path(__file__).parents[2] / "docs" / "architecture.md"


@pytest.mark.parametrize("name", OPS)
def test_every_op_has_its_rules(name):
    assert name in INFER
    assert name in (REFERENCE if OPS[name].kind == "primitive" else DECOMPOSE)
    assert OPS[name].doc


def test_rules_belong_to_declared_ops():
    assert OPS.keys() >= INFER.keys() | REFERENCE.keys() | DECOMPOSE.keys()


def test_the_architecture_page_lists_exactly_these_ops():
    page = ARCHITECTURE.read_text().split("## The IR")[1]
    primitives, composites = page.split("### Composites")
    rows = re.findall(r"^\| ((?:[a-z]+: )?`.+?) \|", primitives, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"\w+", re.sub(r"^[a-z]+: ", "", row))}
    blocks = " ".join(re.findall(r"`([^`]*)`", composites.split("\n## ")[0]))
    without_arguments = re.sub(r"\([^)]*\)", "", blocks)
    assert listed == {name for name, info in OPS.items() if info.kind == "primitive"}
    assert set(re.findall(r"\w+", without_arguments)) >= {
        name for name, info in OPS.items() if info.kind == "composite"
    }


@pytest.mark.parametrize("name", OPS)
def test_every_op_computes_what_it_infers(name, rng):
    node = sample(name)
    results = evaluate(node, [random_array(rng, v.tensor) for v in node.inputs])
    for result, type_ in zip(results, node.types, strict=True):
        assert (result.dtype, result.shape) == (type_.dtype.numpy, type_.shape)


@pytest.mark.parametrize("name", sorted(DECOMPOSE))
def test_decompositions_have_the_inferred_types(name):
    node = sample(name)
    assert tuple(v.type for v in decomposition(node).outputs) == node.types


@pytest.mark.parametrize("name", [n for n, i in OPS.items() if has_tag(n, "elementwise")])
def test_elementwise_ops_work_on_scalars_and_empty_tensors(name):
    node = sample(name)
    for shape in [(), (0, 3)]:
        inputs = [tensor(v.tensor.dtype, *shape) for v in node.inputs]
        resized = make(name, *inputs, **node.attrs)
        arrays = [np.ones(shape, v.tensor.dtype.numpy) for v in inputs]
        assert all(r.shape == shape for r in evaluate(resized, arrays))


def test_defaults_are_filled_in():
    node = sample("convolution")
    assert node.attrs["strides"] == (1, 1)
    assert node.attrs["padding"] == ((0, 0), (0, 0))
    assert sample("attention").attrs["scale"] == 0.5


def test_an_unknown_op_is_refused():
    with pytest.raises(VerifyError, match="unknown op 'frobnicate'"):
        op.frobnicate(tensor(f32, 2))


def test_an_unknown_attribute_is_refused():
    with pytest.raises(VerifyError, match="unexpected keyword argument 'colour'"):
        op.negate(tensor(f32, 2), colour="red")


def test_one_result_gives_a_value_and_several_a_tuple():
    assert isinstance(op.negate(tensor(f32, 2)).node, Node)
    values, indices = op.top_k(tensor(f32, 5), k=2, axis=0)
    assert values.node is indices.node
