"""A detector as people have them: a backbone, boxes that survive, and a second stage on these."""

from __future__ import annotations

import numpy as np
import pytest
from onnx_helpers import model
from test_dynamic_shapes import kept_boxes

import tilth
import tilth.onnx.session as ort

# Channels 0 to 3 of the features are boxes, channel 4 scores; survivors go through a second layer,
# if there are any, and each is told its class.
DETECTOR = """g (float[1,c,h,w] image, float[8,c,1,1] k, float[8,3] head)
    => (float[m,4] boxes, float[m] scores, int64[m] labels, float[m,3] logits) {
    features = Conv(image, k)
    activated = Sigmoid(features)
    flat_shape = Constant<value_ints=[1,8,-1]>()
    flat = Reshape(activated, flat_shape)
    corners, score, rest = Split<axis=1>(flat, parts)
    parts = Constant<value_ints=[4,1,3]>()
    by_box = Transpose<perm=[0,2,1]>(corners)
    low, size = Split<axis=2, num_outputs=2>(by_box)
    high = Add(low, size)
    all_boxes = Concat<axis=2>(low, high)

    most = Constant<value=int64 {100}>()
    overlap = Constant<value=float {0.5}>()
    least = Constant<value=float {0.5}>()
    chosen = NonMaxSuppression(all_boxes, score, most, overlap, least)
    column = Constant<value=int64 {2}>()
    places = Gather<axis=1>(chosen, column)

    first = Constant<value_ints=[0]>()
    list = Squeeze(all_boxes, first)
    boxes = Gather(list, places)
    both = Constant<value_ints=[0,1]>()
    score_list = Squeeze(score, both)
    scores = Gather(score_list, places)
    tall = Transpose<perm=[0,2,1]>(flat)
    rows = Squeeze(tall, first)
    vectors = Gather(rows, places)
    logits = MatMul(vectors, head)
    labels = ArgMax<axis=1, keepdims=0>(logits)
}"""
DETECTOR_MODEL = tilth.load(model(DETECTOR))


def expected(image: np.ndarray, k: np.ndarray, head: np.ndarray) -> list[np.ndarray]:
    rows = 1 / (1 + np.exp(-np.einsum("chw,oc->hwo", image[0], k[:, :, 0, 0]))).reshape(-1, 8)
    boxes, scores = rows[:, :4].copy(), rows[:, 4]
    boxes[:, 2:] += boxes[:, :2]
    candidates = (scores > 0.5).nonzero()[0]
    places = candidates[[i for _, _, i in kept_boxes(boxes[candidates], scores[candidates])]]
    logits = rows[places] @ head
    return [boxes[places], scores[places], logits.argmax(1), logits]


def inputs(height: int, width: int, brightness: float = 0.0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(height * width)
    shapes = {"image": (1, 3, height, width), "k": (8, 3, 1, 1), "head": (8, 3)}
    feeds = {n: rng.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    feeds["image"] += brightness * np.sign(feeds["k"][4, :, 0, 0])[:, None, None]
    return feeds


@pytest.mark.parametrize(
    "feeds",
    [inputs(6, 8), inputs(4, 4), inputs(1, 1), inputs(4, 4, brightness=-9)],
    ids=["large", "small", "one place", "nothing found"],
)
def test_a_detector_finds_what_it_should(feeds: dict[str, np.ndarray]):
    found = DETECTOR_MODEL(feeds)
    for array, right in zip(found.values(), expected(**feeds), strict=True):
        assert array.shape == right.shape
        np.testing.assert_allclose(array, right, rtol=1e-4, atol=1e-5)


def test_only_the_suppression_runs_on_the_host():
    run = tilth.load(model(DETECTOR)).prepare()
    run(inputs(4, 4))
    assert [h.op for h in run.report.host_ops] == ["NonMaxSuppression"]
    assert len(run.report.regions) == 2


def test_a_session_does_the_same():
    feeds = inputs(4, 4)
    session = ort.InferenceSession(model(DETECTOR))
    for array, right in zip(session.run(None, feeds), expected(**feeds), strict=True):
        np.testing.assert_allclose(array, right, rtol=1e-4, atol=1e-5)
