"""The operators of ai.onnx.ml, against ONNX Runtime on random attributes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx_helpers import run

from tilth.ir.errors import InputError, ModelError, TilthError
from tilth.onnx.scores import TRANSFORMS

onnxruntime = pytest.importorskip("onnxruntime")

_TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.float64): TensorProto.DOUBLE,
    np.dtype(np.int32): TensorProto.INT32,
    np.dtype(np.int64): TensorProto.INT64,
    np.dtype(object): TensorProto.STRING,
}
FLOAT, INT, TEXT = np.dtype(np.float32), np.dtype(np.int64), np.dtype(object)


def one_node(
    op_type: str, inputs: list[np.ndarray], outputs: list[np.dtype], opset: int = 3, **attrs: Any
) -> onnx.ModelProto:
    """A model of one ai.onnx.ml node; outputs have no declared shape."""
    names = [f"x{i}" for i in range(len(inputs))]
    results = [f"y{i}" for i in range(len(outputs))]
    node = helper.make_node(op_type, names, results, domain="ai.onnx.ml", **attrs)
    graph = helper.make_graph(
        [node],
        "g",
        [
            helper.make_tensor_value_info(n, _TYPES[x.dtype], x.shape)
            for n, x in zip(names, inputs, strict=True)
        ],
        [
            helper.make_tensor_value_info(n, _TYPES[d], None)
            for n, d in zip(results, outputs, strict=True)
        ],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("ai.onnx.ml", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def same(
    op_type: str,
    *inputs: np.ndarray,
    outputs: tuple[np.dtype, ...] = (FLOAT,),
    opset: int = 3,
    rtol: float = 1e-5,
    **attrs: Any,
) -> list[np.ndarray]:
    """Run both; assert that they agree; give the outputs."""
    proto = one_node(op_type, list(inputs), list(outputs), opset, **attrs)
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    wanted = session.run(None, {f"x{i}": x for i, x in enumerate(inputs)})
    results = run(proto, *inputs)
    for got, want in zip(results, wanted, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape)
        if want.dtype == object:
            assert got.tolist() == want.tolist()
        else:
            np.testing.assert_allclose(got, want, rtol, 1e-6)
    return results


def floats(rng: np.random.Generator, *shape: int) -> list[float]:
    return rng.standard_normal(shape).astype(np.float32).ravel().tolist()


@pytest.fixture
def x(rng) -> np.ndarray:
    return rng.standard_normal((9, 4)).astype(np.float32)


# Features


@pytest.mark.parametrize("norm", ["MAX", "L1", "L2"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_rows_are_normalised(x, norm, dtype):
    x[3] = 0
    same("Normalizer", (x * 5).astype(dtype), norm=norm)


def test_a_vector_is_normalised_as_one_row(x):
    same("Normalizer", x[0], norm="L2")


@pytest.mark.parametrize("count", [1, 4])
def test_scaling(x, rng, count):
    same("Scaler", x, offset=floats(rng, count), scale=floats(rng, count))


@pytest.mark.parametrize("imputed", [[7.0], [1.0, 2.0, 3.0, 4.0]])
def test_nan_is_imputed(x, imputed):
    x[x > 0.5] = np.nan
    same("Imputer", x, imputed_value_floats=imputed, replaced_value_float=float("nan"))


def test_integers_are_imputed(rng):
    x = rng.integers(0, 3, (5, 2))
    same("Imputer", x, outputs=(INT,), imputed_value_int64s=[8, 9], replaced_value_int64=1)


def test_binarizing(x):
    same("Binarizer", x, threshold=0.25)


@pytest.mark.parametrize("dtype", [np.int64, np.float32])
def test_one_hot_of_numbers(rng, dtype):
    same("OneHotEncoder", rng.integers(0, 6, (4, 2)).astype(dtype), cats_int64s=[4, 1, 0])


def test_one_hot_of_strings():
    x = np.array([["a", "zz"], ["b", "a"]], object)
    same("OneHotEncoder", x, cats_strings=["b", "a", "c"])


def test_an_unknown_category_can_be_an_error():
    known, unknown = np.array([[4, 1]]), np.array([[4, 2]])
    attrs = {"cats_int64s": [1, 4], "zeros": 0}
    same("OneHotEncoder", known, **attrs)
    with pytest.raises(InputError, match="2 is not one of the 2 values"):
        run(one_node("OneHotEncoder", [unknown], [FLOAT], **attrs), unknown)


def test_features_side_by_side(x, rng):
    more = rng.standard_normal((9, 2)).astype(np.float32)
    same("FeatureVectorizer", x, more, inputdimensions=[4, 2])


def test_columns_are_extracted(x):
    same("ArrayFeatureExtractor", x, np.array([2, 0], np.int64))


# Labels


def test_strings_become_numbers_and_back():
    words, numbers = np.array(["b", "?", "a"], object), np.array([1, 5, 0])
    classes = {"classes_strings": ["a", "b"]}
    same("LabelEncoder", words, outputs=(INT,), opset=1, default_int64=-7, **classes)
    same("LabelEncoder", numbers, outputs=(TEXT,), opset=1, default_string="none", **classes)


def test_the_last_value_of_a_repeated_key_counts():
    """The standard says so; ONNX Runtime takes the first."""
    x = np.array([1, 2, 3])
    attrs = {"keys_int64s": [1, 2, 1], "values_floats": [0.5, 1.5, 2.5], "default_float": 9.0}
    assert run(one_node("LabelEncoder", [x], [FLOAT], **attrs), x)[0].tolist() == [2.5, 1.5, 9.0]


def test_nan_is_a_key():
    x = np.array([np.nan, 1, 2], np.float32)
    attrs = {"keys_floats": [float("nan"), 1.0], "values_strings": ["nan", "one"]}
    labels = run(one_node("LabelEncoder", [x], [TEXT], **attrs), x)[0]
    assert labels.tolist() == ["nan", "one", "_Unused"]


def test_tensors_of_keys_and_values():
    x = np.array(["a", "c"], object)
    attrs = {
        "keys_tensor": helper.make_tensor("k", TensorProto.STRING, [2], [b"a", b"b"]),
        "values_tensor": helper.make_tensor("v", TensorProto.INT64, [2], [3, 4]),
        "default_tensor": helper.make_tensor("d", TensorProto.INT64, [1], [-2]),
    }
    assert run(one_node("LabelEncoder", [x], [INT], 4, **attrs), x)[0].tolist() == [3, -2]


def test_categories_both_ways():
    categories = {"cats_strings": ["x", "y"], "cats_int64s": [10, 20]}
    words, numbers = np.array([["y", "q"]], object), np.array([[20, 3]])
    same("CategoryMapper", words, outputs=(INT,), default_int64=-1, **categories)
    same("CategoryMapper", numbers, outputs=(TEXT,), default_string="?", **categories)


# Linear models


@pytest.mark.parametrize("targets", [1, 3])
def test_linear_regression(x, rng, targets):
    attrs = {"coefficients": floats(rng, targets, 4), "intercepts": floats(rng, targets)}
    same("LinearRegressor", x, targets=targets, **attrs)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_linear_classification(x, rng, transform, classes, dtype):
    same(
        "LinearClassifier",
        (x * 4).astype(dtype),
        outputs=(INT, FLOAT),
        coefficients=floats(rng, classes, 4),
        intercepts=floats(rng, classes),
        classlabels_ints=list(range(10, 10 + classes)),
        post_transform=transform,
    )


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
def test_one_row_of_coefficients_tells_two_classes(x, rng, transform):
    same(
        "LinearClassifier",
        x,
        outputs=(TEXT, FLOAT),
        coefficients=floats(rng, 4),
        intercepts=[0.1],
        classlabels_strings=["no", "yes"],
        post_transform=transform,
    )


def test_probit_is_the_inverse_of_the_normal_distribution():
    x = np.linspace(0.02, 0.98, 7, dtype=np.float32)[:, None]
    same("TreeEnsembleRegressor", x, **_identity_trees(x), post_transform="PROBIT", rtol=2e-3)


def _identity_trees(x: np.ndarray) -> dict[str, Any]:
    """A tree per row boundary whose sum is close to x itself."""
    values = x[:, 0].tolist()
    steps = np.diff([values[0], *values])[1:].tolist()
    middles = [(a + b) / 2 for a, b in pairwise(values)]
    n = len(middles)
    return {
        "n_targets": 1,
        "base_values": [values[0]],
        "nodes_treeids": np.repeat(range(n), 3).tolist(),
        "nodes_nodeids": [0, 1, 2] * n,
        "nodes_featureids": [0] * 3 * n,
        "nodes_values": np.ravel([[m, 0, 0] for m in middles]).tolist(),
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"] * n,
        "nodes_truenodeids": [1, 0, 0] * n,
        "nodes_falsenodeids": [2, 0, 0] * n,
        "nodes_missing_value_tracks_true": [0] * 3 * n,
        "target_treeids": np.repeat(range(n), 2).tolist(),
        "target_nodeids": [1, 2] * n,
        "target_ids": [0] * 2 * n,
        "target_weights": np.ravel([[0, s] for s in steps]).tolist(),
    }


# Support vector machines


KERNELS = {
    "LINEAR": [0.0] * 3,
    "POLY": [0.5, 1.0, 3.0],
    "RBF": [0.3, 0, 0],
    "SIGMOID": [0.2, 0.1, 0],
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("one_class", [0, 1])
def test_support_vector_regression(x, rng, kernel, one_class):
    same(
        "SVMRegressor",
        x,
        n_supports=5,
        support_vectors=floats(rng, 5, 4),
        coefficients=floats(rng, 5),
        rho=[0.2],
        one_class=one_class,
        kernel_type=kernel,
        kernel_params=KERNELS[kernel],
    )


def test_regression_without_support_vectors_is_linear(x, rng):
    same("SVMRegressor", x, coefficients=floats(rng, 4), rho=[0.2], kernel_params=[0.0] * 3)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("counts", [(3, 4), (2, 3, 2), (2, 1, 3, 2)])
@pytest.mark.parametrize("probabilities", [False, True])
def test_support_vector_classification(x, rng, kernel, counts, probabilities):
    classes, vectors = len(counts), sum(counts)
    pairs = classes * (classes - 1) // 2
    attrs: dict[str, Any] = {}
    if probabilities:
        attrs = {"prob_a": (-rng.uniform(0.5, 2, pairs)).tolist(), "prob_b": floats(rng, pairs)}
    same(
        "SVMClassifier",
        x,
        outputs=(INT, FLOAT),
        vectors_per_class=list(counts),
        support_vectors=floats(rng, vectors, 4),
        coefficients=floats(rng, classes - 1, vectors),
        rho=floats(rng, pairs),
        classlabels_ints=list(range(5, 5 + classes)),
        kernel_type=kernel,
        kernel_params=KERNELS[kernel],
        rtol=1e-4,
        **attrs,
    )


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
@pytest.mark.parametrize("counts", [(3, 4), (2, 3, 2)])
def test_scores_of_pairs_are_transformed(x, rng, transform, counts):
    classes, vectors = len(counts), sum(counts)
    same(
        "SVMClassifier",
        x,
        outputs=(TEXT, FLOAT),
        vectors_per_class=list(counts),
        support_vectors=floats(rng, vectors, 4),
        coefficients=floats(rng, classes - 1, vectors),
        rho=floats(rng, classes * (classes - 1) // 2),
        classlabels_strings=list("abc"[:classes]),
        kernel_params=KERNELS["LINEAR"],
        post_transform=transform,
    )


# Trees


def random_trees(
    rng: np.random.Generator, votes: str, targets: int, modes: tuple[str, ...], count: int = 6
) -> dict[str, Any]:
    """Attributes of trees of random shape and depth over four features."""
    nodes: list[tuple] = []
    leaves: list[tuple] = []

    def grow(tree: int, depth: int) -> int:
        node = sum(n[0] == tree for n in nodes)
        nodes.append(())
        place = len(nodes) - 1
        nodes[place] = (tree, node, 0, 0.0, "LEAF", 0, 0, 0)
        if depth and rng.random() < 0.8:
            true, false = grow(tree, depth - 1), grow(tree, depth - 1)
            mode = str(rng.choice(modes))
            value = float(np.float32(rng.integers(-2, 3) / 2))
            branch = (int(rng.integers(4)), value, mode, true, false, int(rng.integers(2)))
            nodes[place] = (tree, node, *branch)
        else:
            for target in range(targets):
                leaves.append((tree, node, target, float(np.float32(rng.standard_normal()))))
        return node

    for tree in range(count):
        grow(tree, int(rng.integers(0, 5)))
    names = ("treeids", "nodeids", "featureids", "values", "modes")
    names += ("truenodeids", "falsenodeids", "missing_value_tracks_true")
    columns = zip(*nodes, strict=True)
    attrs = {f"nodes_{n}": list(c) for n, c in zip(names, columns, strict=True)}
    columns = zip(*leaves, strict=True)
    kinds = ("treeids", "nodeids", "ids", "weights")
    return attrs | {f"{votes}_{n}": list(c) for n, c in zip(kinds, columns, strict=True)}


MODES = ("BRANCH_LEQ", "BRANCH_LT", "BRANCH_GTE", "BRANCH_GT", "BRANCH_EQ", "BRANCH_NEQ")


@pytest.fixture
def halves(rng) -> np.ndarray:
    """Samples that often lie exactly on a threshold, or are missing."""
    x = (rng.integers(-4, 5, (40, 4)) / 4).astype(np.float32)
    x[rng.random(x.shape) < 0.1] = np.nan
    return x


@pytest.mark.parametrize("mode", MODES)
def test_every_comparison_of_trees(halves, rng, mode):
    same("TreeEnsembleRegressor", halves, n_targets=1, **random_trees(rng, "target", 1, (mode,)))


def test_comparisons_mixed_in_one_tree(halves, rng):
    trees = random_trees(rng, "target", 2, MODES)
    same("TreeEnsembleRegressor", halves, n_targets=2, **trees)


@pytest.mark.parametrize("how", ["SUM", "AVERAGE", "MIN", "MAX"])
@pytest.mark.parametrize("targets", [1, 3])
def test_trees_are_aggregated(halves, rng, how, targets):
    trees = random_trees(rng, "target", targets, MODES[:1])
    base = floats(rng, targets)
    attrs = {"n_targets": targets, "aggregate_function": how, "base_values": base}
    same("TreeEnsembleRegressor", halves, **attrs, **trees)


def test_trees_in_double_precision(halves, rng):
    trees = random_trees(rng, "target", 1, MODES[:1])
    same("TreeEnsembleRegressor", halves.astype(np.float64), n_targets=1, **trees)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("base", [False, True])
def test_trees_classify(halves, rng, transform, base):
    trees = random_trees(rng, "class", 3, MODES[:1])
    attrs = {"base_values": floats(rng, 3)} if base else {}
    attrs |= {"classlabels_int64s": [7, 8, 9], "post_transform": transform}
    same("TreeEnsembleClassifier", halves, outputs=(INT, FLOAT), **attrs, **trees)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"])
@pytest.mark.parametrize("positive", [False, True])
@pytest.mark.parametrize("base", [[], [0.1]])
def test_one_score_tells_two_classes(halves, rng, transform, positive, base):
    trees = random_trees(rng, "class", 1, MODES[:1])
    if positive:
        trees["class_weights"] = [abs(w) / 6 for w in trees["class_weights"]]
    attrs = {"classlabels_strings": ["no", "yes"], "post_transform": transform}
    attrs |= {"base_values": base} if base else {}
    same("TreeEnsembleClassifier", halves, outputs=(TEXT, FLOAT), **attrs, **trees)


@pytest.mark.parametrize("transform", ["NONE", "LOGISTIC", "SOFTMAX"])
def test_scores_of_the_second_class_only(halves, rng, transform):
    trees = random_trees(rng, "class", 1, MODES[:1])
    trees["class_ids"] = [1] * len(trees["class_ids"])
    attrs = {"classlabels_int64s": [3, 4], "post_transform": transform}
    same("TreeEnsembleClassifier", halves, outputs=(INT, FLOAT), **attrs, **trees)


def test_two_scores_choose_the_larger(halves, rng):
    trees = random_trees(rng, "class", 2, MODES[:1])
    attrs = {"classlabels_int64s": [3, 4]}
    proto = one_node("TreeEnsembleClassifier", [halves], [INT, FLOAT], **attrs, **trees)
    labels, scores = run(proto, halves)
    assert labels.tolist() == (3 + scores.argmax(1)).tolist()


def test_trees_that_are_broken_are_refused(halves, rng):
    trees = random_trees(rng, "target", 1, MODES[:1])
    faults: list[dict[str, Any]] = [
        {"nodes_truenodeids": [99] * len(trees["nodes_modes"])},
        {"nodes_truenodeids": [0] * len(trees["nodes_modes"])},
        {"nodes_featureids": [4] * len(trees["nodes_modes"])},
        {"nodes_modes": ["BRANCH"] * len(trees["nodes_modes"])},
        {"target_ids": [1] * len(trees["target_ids"])},
        {"target_weights": [1.0]},
        {"nodes_nodeids": [0] * len(trees["nodes_modes"])},
    ]
    for fault in faults:
        proto = one_node("TreeEnsembleRegressor", [halves], [FLOAT], n_targets=1, **(trees | fault))
        with pytest.raises(ModelError):
            run(proto, halves)


def test_transforms_have_the_order_of_their_numbers():
    assert TRANSFORMS == ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")


def test_an_unknown_transform_is_refused(x):
    proto = one_node("LinearRegressor", [x], [FLOAT], coefficients=[1.0] * 4, post_transform="X")
    with pytest.raises(TilthError, match="post_transform 'X'"):
        run(proto, x)
