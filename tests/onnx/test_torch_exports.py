"""What PyTorch exports runs here with PyTorch's results, at opsets 18 to 25, by both exporters.

Exporting is slow, so each module below does several things of one kind, and all are exported at the
newest of these opsets, but only those at older ones that become something else there.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch", reason="pip install -e '.[torch]'")
pytest.importorskip("onnxscript", reason="pip install -e '.[torch]'")

import torch.nn.functional as F  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.export import Dim  # noqa: E402

import tilth  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]
OLDEST, NEWEST = 18, 25
BATCH, LENGTH = Dim("batch", min=1, max=64), Dim("length", min=2, max=64)


class Apply(nn.Module):
    """A module that calls a function, which may use other modules."""

    def __init__(self, function: Callable[..., Any], **modules: nn.Module) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ModuleDict(modules)

    def forward(self, *inputs: Tensor) -> Any:
        return self.function(*inputs, **self.parts)


@dataclass(frozen=True)
class Case:
    """A module, inputs to export it with, other inputs to run it with, and its open dimensions."""

    module: nn.Module
    inputs: tuple[Tensor, ...]
    others: Sequence[tuple[Tensor, ...]] = ()
    open: tuple[dict[int, Any] | None, ...] | None = field(default=None)


@pytest.fixture(autouse=True)
def quiet_and_seeded() -> Iterator[None]:
    torch.manual_seed(0)
    logging.disable(logging.WARNING)  # of the exporter, about packages that are absent
    yield
    logging.disable(logging.NOTSET)


def exported(case: Case, opset: int) -> onnx.ModelProto:
    shapes = None if case.open is None else {"inputs": case.open}
    program = torch.onnx.export(
        case.module.eval(),
        case.inputs,
        dynamo=True,
        opset_version=opset,
        dynamic_shapes=shapes if isinstance(case.module, Apply) else case.open,
        verbose=False,
    )
    proto = program.model_proto
    assert next(o.version for o in proto.opset_import if not o.domain) == opset
    return proto


def flat(outputs: Any) -> list[Tensor]:
    if isinstance(outputs, Tensor):
        return [outputs]
    return [tensor for part in outputs for tensor in flat(part)]


def array(tensor: Tensor) -> np.ndarray:
    """As an array; what NumPy has no type for as the next wider type."""
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).detach().numpy()


def require_same(model: tilth.Model, module: nn.Module, inputs: Sequence[Tensor]) -> None:
    with torch.no_grad():
        expected = flat(module(*inputs))
    names = [port.name for port in model.inputs]
    got = model({n: t.numpy() for n, t in zip(names, inputs, strict=True)})
    for found, right in zip(got.values(), map(array, expected), strict=True):
        assert found.shape == right.shape
        if right.dtype.kind not in "fc":
            assert found.tolist() == right.tolist()
            continue
        finite = np.abs(right[np.isfinite(right)])
        largest = float(finite.max(initial=0))
        np.testing.assert_allclose(found.astype(right.dtype), right, 1e-5, 1e-5 * (largest or 1))


def check(case: Case, opset: int) -> onnx.ModelProto:
    """Export the module, run it here on all its inputs, and compare; gives the exported model."""
    proto = exported(case, opset)
    model = tilth.load(proto)
    for inputs in (case.inputs, *case.others):
        require_same(model, case.module, inputs)
    return proto


def perceptron() -> Case:
    module = nn.Sequential(
        *(nn.Linear(8, 16), nn.GELU(), nn.LayerNorm(16), nn.Linear(16, 8), nn.SiLU()),
        *(nn.Dropout(), nn.GELU("tanh"), nn.Linear(8, 4), nn.LogSoftmax(1)),
    )
    others = [(torch.randn(n, 8),) for n in (1, 5)]
    return Case(module, (torch.randn(3, 8),), others, ({0: BATCH},))


def convolutions() -> Case:
    module = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, groups=8, dilation=2, padding=2), nn.GroupNorm(2, 8), nn.Hardswish()),
        *(nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1), nn.PReLU(6)),
        *(nn.AvgPool2d(3, 2, 1), nn.InstanceNorm2d(6, affine=True), nn.AdaptiveAvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(24, 5)),
    )
    for part in module:
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2)
    others = [(torch.randn(n, 3, 12, 12),) for n in (1, 4)]
    return Case(module, (torch.randn(2, 3, 12, 12),), others, ({0: BATCH},))


def other_dimensions() -> Case:
    """Convolutions over one and three axes."""
    one = nn.Sequential(nn.Conv1d(4, 6, 3, stride=2), nn.ConvTranspose1d(6, 4, 4, groups=2))
    three = nn.Sequential(nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), nn.MaxPool3d(2))
    module = Apply(lambda x, y, one, three: (one(x), three(y)), one=one, three=three)
    return Case(module, (torch.randn(2, 4, 15), torch.randn(1, 2, 5, 6, 7)))


def attention() -> Case:
    """Causal, with a mask of booleans, and with fewer heads for keys than for queries."""

    def module(q: Tensor, k: Tensor, mask: Tensor) -> Any:
        few = k[:, :2]
        return (
            F.scaled_dot_product_attention(q, k, k, is_causal=True),
            F.scaled_dot_product_attention(q, k, k, attn_mask=mask, scale=0.3),
            F.scaled_dot_product_attention(q, few, few, enable_gqa=True),
        )

    def inputs(batch: int, length: int) -> tuple[Tensor, ...]:
        q, k = torch.randn(2, batch, 4, length, 8)
        return q, k, (torch.rand(batch, 1, length, length) > 0.3) | torch.eye(length).bool()

    sizes = {0: BATCH, 2: LENGTH}
    mask = {0: BATCH, 2: LENGTH, 3: LENGTH}
    others = [inputs(1, 9), inputs(3, 2)]
    return Case(Apply(module), inputs(2, 6), others, (sizes, sizes, mask))


def encoder() -> Case:
    """A layer of a transformer, with padding that is masked."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    module = Apply(lambda x, mask, layer: layer(x, src_key_padding_mask=mask), layer=layer)

    def inputs(batch: int, length: int) -> tuple[Tensor, ...]:
        return torch.randn(batch, length, 16), torch.arange(length) >= torch.full(
            (batch, 1), length - 1
        )

    sizes = {0: BATCH, 1: LENGTH}
    return Case(module, inputs(2, 5), [inputs(1, 7)], (sizes, sizes))


def condition() -> Case:
    def module(x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda t: t.sin() * 2, lambda t: t.cos() - t, (x,))

    x = torch.rand(3, 4)
    return Case(Apply(module), (x,), [(-x,), (x[:1],)], ({0: BATCH},))


def masks() -> Case:
    def module(x: Tensor, keep: Tensor) -> Any:
        lower = torch.tril(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool))
        return (
            x.masked_fill(~keep, float("-inf")).softmax(1),
            torch.where(keep & (x > 0) | (x < -1), x, x.abs() + 1),
            (x.unsqueeze(1) * lower).sum(2),
            keep.any(1),
            keep.all(0) ^ (x[0] > 0),
            x.masked_fill(torch.isnan(x) | ~keep, 0).clamp(-0.5, 0.5),
        )

    def inputs(batch: int, length: int) -> tuple[Tensor, ...]:
        keep = torch.rand(batch, length) > 0.4
        keep[:, 0] = True
        return torch.randn(batch, length), keep

    sizes = {0: BATCH, 1: LENGTH}
    return Case(Apply(module), inputs(3, 5), [inputs(2, 8), inputs(1, 2)], (sizes, sizes))


def selections() -> Case:
    """Results whose sizes follow from the data."""

    def module(x: Tensor) -> Any:
        return x[x > 0], torch.nonzero(x < 0), x[x > 0] * 2 + 1

    others = [(torch.randn(4, 6),), (torch.ones(4, 6),), (-torch.ones(4, 6),)]
    return Case(Apply(module), (torch.randn(4, 6),), others)


def recurrent() -> Case:
    def module(x: Tensor, lstm: nn.Module, deep: nn.Module, gru: nn.Module, both: nn.Module) -> Any:
        return lstm(x), deep(x), gru(x), both(x)[0]

    parts = {
        "lstm": nn.LSTM(5, 7),
        "deep": nn.LSTM(5, 6, num_layers=2, bidirectional=True, batch_first=True),
        "gru": nn.GRU(5, 7, batch_first=True),
        "both": nn.GRU(5, 4, bidirectional=True, bias=False),
    }
    return Case(Apply(module, **parts), (torch.randn(4, 3, 5),))


def embeddings() -> Case:
    """Tokens at positions that follow from the length, mixed by an Einstein sum."""

    def module(ids: Tensor, words: nn.Module, places: nn.Module) -> Any:
        x = words(ids) + places(torch.arange(ids.shape[1]))
        heads = x.reshape(ids.shape[0], ids.shape[1], 2, -1).transpose(1, 2)
        mixed = torch.einsum("bhid,bhjd->bhij", heads, heads)
        return mixed, torch.einsum("bii->bi", mixed[:, 0]), x.view(-1, x.shape[2]).mean(1)

    parts = {"words": nn.Embedding(20, 8, padding_idx=0), "places": nn.Embedding(64, 8)}
    others = [(torch.randint(0, 20, size),) for size in ((1, 9), (3, 2))]
    inputs = (torch.randint(0, 20, (2, 6)),)
    return Case(Apply(module, **parts), inputs, others, ({0: BATCH, 1: LENGTH},))


def images() -> Case:
    def module(x: Tensor, grid: Tensor) -> Any:
        return (
            F.interpolate(x, scale_factor=2, mode="nearest"),
            F.interpolate(x, size=(7, 9), mode="bilinear", align_corners=False),
            F.interpolate(x, size=(11, 4), mode="bilinear", align_corners=True),
            F.interpolate(x, scale_factor=1.5, mode="bicubic"),
            F.grid_sample(x, grid, padding_mode="border", align_corners=False),
            F.pad(x, (1, 2, 3, 0), mode="reflect"),
            F.pixel_shuffle(x, 2),
            F.unfold(x, 3, padding=1),
        )

    inputs = (torch.randn(2, 4, 6, 5), torch.rand(2, 3, 3, 2) * 2.2 - 1.1)
    return Case(Apply(module), inputs)


def indices() -> Case:
    def module(x: Tensor, rows: Tensor, columns: Tensor) -> Any:
        put = x.clone()
        put[rows, columns] = -1.0
        added = x.index_put((rows, columns), torch.ones(len(rows)), accumulate=True)
        spread = columns.unsqueeze(1).expand(-1, x.shape[1])
        stepped = x.clone()
        stepped[1:, ::2] = 0
        return (
            *(put, added, stepped, x[rows], x[:, columns], x[rows, columns]),
            *(x.gather(0, spread), x.scatter(0, spread[:2], x[:2]), x.index_select(1, columns)),
            *(x.scatter_add(0, spread, x[:3]), x.scatter_reduce(0, spread, x[:3], "amax")),
            *(x.index_add(0, rows, x[:3]), x[..., -1], x[None, 1]),
        )

    inputs = (torch.randn(5, 4), torch.tensor([0, 2, 4]), torch.tensor([1, 3, 0]))
    return Case(Apply(module), inputs)


def orders() -> Case:
    def module(x: Tensor) -> Any:
        return (
            *(x.cumsum(1), x.topk(3, 1), x.sort(1, descending=True), x.argmax(1), x.argmin(0)),
            *(x.flip(1), x.roll(2, 1), x.max(1), x.logsumexp(1), x.std(1), x.var(0), x.prod(1)),
            *(x.norm(dim=1), x.amax((0, 1))),
        )

    others = [(torch.randn(n, 6),) for n in (2, 5)]
    return Case(Apply(module), (torch.randn(3, 6),), others, ({0: BATCH},))


def shapes() -> Case:
    """Sizes computed from open dimensions."""

    def module(x: Tensor) -> Any:
        batch, length, width = x.shape
        return (
            x.reshape(batch * length, width),
            torch.cat([x, torch.zeros(batch, 1, width)], 1),
            x.new_full((batch, 2 * length), 3.0),
            torch.arange(length).expand(batch, length),
            x[:, : length // 2].repeat(1, 2, 1),
            torch.stack(x.split(2, 2), 1).flatten(1, 2),
            x[:, -1] * length + batch,
        )

    others = [(torch.randn(*size, 4),) for size in ((1, 2), (5, 9))]
    return Case(Apply(module), (torch.randn(2, 6, 4),), others, ({0: BATCH, 1: LENGTH},))


def transforms() -> Case:
    """Fourier transforms, with complex numbers inside."""

    def module(x: Tensor) -> Any:
        spectrum = torch.fft.rfft(x, norm="ortho")
        low = torch.fft.fft(x, dim=0)
        return torch.view_as_real(spectrum), low.real + low.imag, torch.fft.irfft(spectrum, n=12)

    return Case(Apply(module), (torch.randn(3, 12),))


def element_types() -> Case:
    def module(x: Tensor, n: Tensor) -> Any:
        return (
            *(x.half() * 3 + 1, x.double().exp(), x.to(torch.int32) // 2, (x * 5).round().long()),
            *(n // 3, n % 3, n << 2, n & 5, -n, n.float() / 7, n.bool(), (n % 3).to(torch.uint8)),
            x.bfloat16() * 2,
        )

    return Case(Apply(module), (torch.randn(3, 4) * 4, torch.tensor([[-7], [5], [11]])))


def functions() -> Case:
    names = "celu elu hardtanh leaky_relu logsigmoid mish relu6 selu softplus softsign tanhshrink"

    def module(x: Tensor) -> Any:
        activations = [getattr(F, name)(x) for name in names.split()]
        rest = (x.erf(), x.atan2(x + 1), x.abs().pow(0.3), x.abs().rsqrt(), x.trunc(), x.sign())
        return *activations, *rest, x.frac(), x.fmod(0.7), x.remainder(0.7), torch.special.expit(x)

    return Case(Apply(module), (torch.randn(4, 9),))


def matrices() -> Case:
    def module(x: Tensor, y: Tensor) -> Any:
        return (
            *(x @ y, torch.baddbmm(x @ y, x, y, beta=0.5), x[0] @ y, x @ y[0, :, 0]),
            *(torch.outer(x[0, 0], y[0, :, 1]), torch.kron(x[0], x[1]), x.mT @ x, torch.det(x @ y)),
            *(torch.diagonal(x, 0, 1, 2), torch.triu(x, 1)),
            *(torch.block_diag(x[0], x[1]), torch.meshgrid(x[0, 0], x[1, 0], indexing="ij")),
        )

    return Case(Apply(module), (torch.randn(2, 3, 4), torch.randn(2, 4, 3)))


CASES = (perceptron, convolutions, other_dimensions, attention, encoder, condition, masks,
         selections, recurrent, embeddings, images, indices, orders, shapes, transforms,
         element_types, functions, matrices)  # fmt: skip


OF_EVERY_OPSET = (attention, condition)
OF_THE_OLDEST = (*OF_EVERY_OPSET, masks, selections, recurrent, shapes)


def name(make: Callable[[], Case]) -> str:
    return make.__name__


@pytest.mark.parametrize("make", CASES, ids=name)
def test_results_are_those_of_pytorch(make: Callable[[], Case]):
    check(make(), NEWEST)


@pytest.mark.parametrize("make", OF_THE_OLDEST, ids=name)
def test_older_opsets_give_the_same_results(make: Callable[[], Case]):
    check(make(), OLDEST)


@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("make", OF_EVERY_OPSET, ids=name)
def test_opsets_between_give_the_same_results(make: Callable[[], Case], opset: int):
    check(make(), opset)


@pytest.mark.parametrize(("opset", "one_node"), [(OLDEST, False), (NEWEST, True)])
def test_attention_becomes_one_operator_or_a_chain(opset: int, one_node: bool):
    q = torch.randn(1, 2, 4, 8)
    case = Case(Apply(lambda q: F.scaled_dot_product_attention(q, q, q)), (q,))
    names = [node.op_type for node in check(case, opset).graph.node]
    assert ("Attention" in names) == one_node
    assert ("Softmax" in names) != one_node


@pytest.mark.parametrize("make", [convolutions, recurrent, indices], ids=name)
def test_the_older_exporter(make: Callable[[], Case]):
    case, file = make(), io.BytesIO()
    torch.onnx.export(case.module.eval(), case.inputs, file, dynamo=False, opset_version=OLDEST)
    require_same(tilth.load(file.getvalue()), case.module, case.inputs)
