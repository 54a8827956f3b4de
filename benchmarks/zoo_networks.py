"""Networks people run that no installed library holds, written from their papers in a few lines.

`zoo.py` gives them seeded weights and exports them. Each has the paper's widths, depths, kernels
and activations; what only matters for training is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

Example = tuple[nn.Module, tuple[Tensor, ...]]  # a module, and inputs to export it with


def pixels(*shape: int) -> tuple[Tensor]:
    """A random sample of this shape."""
    return (torch.rand(1, *shape),)


class Sum(nn.Module):
    """What its branches give, added up; a first argument of None is the identity."""

    def __init__(self, *branches: nn.Module | None, last: nn.Module | None = None):
        super().__init__()
        self.branches = nn.ModuleList(branch or nn.Identity() for branch in branches)
        self.last = last or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        total = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return self.last(total)


class Join(nn.Module):
    """What its branches give, concatenated along the channels."""

    def __init__(self, *branches: nn.Module | None):
        super().__init__()
        self.branches = nn.ModuleList(branch or nn.Identity() for branch in branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Scale(nn.Module):
    """Squeeze and excitation (Hu et al. 2018): channels times what their means ask for."""

    def __init__(self, channels: int, hidden: int, gate: nn.Module | None = None):
        super().__init__()
        layers = [nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, hidden, 1), nn.ReLU()]
        self.gate = nn.Sequential(*layers, nn.Conv2d(hidden, channels, 1), gate or nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x)


class OnTranspose(nn.Module):
    """A module that sees the last two dimensions swapped."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x.transpose(1, 2)).transpose(1, 2)


def conv(
    given: int,
    made: int,
    kernel: int = 3,
    stride: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
    groups: int = 1,
    dilation: int = 1,
) -> nn.Sequential:
    """Convolution of the same size, batch norm, activation."""
    pad = kernel // 2 * dilation
    layer = nn.Conv2d(given, made, kernel, stride, pad, dilation, groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(made), *([act()] if act else []))


def classifier(channels: int, classes: int = 1000) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def resnext50() -> nn.Module:
    """ResNeXt-50 32x4d (Xie et al. 2017): grouped 3x3 convolutions. Input 3x224x224."""
    layers: list[nn.Module] = [conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    given = 64
    for depth, width, made in ((3, 128, 256), (4, 256, 512), (6, 512, 1024), (3, 1024, 2048)):
        for place in range(depth):
            stride = 2 if place == 0 and width > 128 else 1
            middle = conv(width, width, 3, stride, groups=32)
            branch = nn.Sequential(conv(given, width, 1), middle, conv(width, made, 1, act=None))
            short = conv(given, made, 1, stride, None) if place == 0 else None
            layers.append(Sum(branch, short, last=nn.ReLU()))
            given = made
    return nn.Sequential(*layers, classifier(2048))


_MOBILENET_V3 = (  # kernel, expanded, made, squeezed, activation, stride
    (3, 16, 16, 0, nn.ReLU, 1),
    (3, 64, 24, 0, nn.ReLU, 2),
    (3, 72, 24, 0, nn.ReLU, 1),
    (5, 72, 40, 24, nn.ReLU, 2),
    (5, 120, 40, 32, nn.ReLU, 1),
    (5, 120, 40, 32, nn.ReLU, 1),
    (3, 240, 80, 0, nn.Hardswish, 2),
    (3, 200, 80, 0, nn.Hardswish, 1),
    (3, 184, 80, 0, nn.Hardswish, 1),
    (3, 184, 80, 0, nn.Hardswish, 1),
    (3, 480, 112, 120, nn.Hardswish, 1),
    (3, 672, 112, 168, nn.Hardswish, 1),
    (5, 672, 160, 168, nn.Hardswish, 2),
    (5, 960, 160, 240, nn.Hardswish, 1),
    (5, 960, 160, 240, nn.Hardswish, 1),
)


def mobilenet_v3() -> nn.Module:
    """MobileNetV3-Large (Howard et al. 2019). Input 3x224x224."""
    layers: list[nn.Module] = [conv(3, 16, 3, 2, nn.Hardswish)]
    given = 16
    for kernel, wide, made, squeezed, act, stride in _MOBILENET_V3:
        parts = [conv(given, wide, 1, act=act)] if wide != given else []
        parts.append(conv(wide, wide, kernel, stride, act, groups=wide))
        if squeezed:
            parts.append(Scale(wide, squeezed, nn.Hardsigmoid()))
        block = nn.Sequential(*parts, conv(wide, made, 1, act=None))
        layers.append(Sum(None, block) if stride == 1 and made == given else block)
        given = made
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(960, 1280), nn.Hardswish())
    return nn.Sequential(*layers, conv(160, 960, 1, act=nn.Hardswish), *head, nn.Linear(1280, 1000))


def mnasnet() -> nn.Module:
    """MNASNet-B1 (Tan et al. 2019). Input 3x224x224."""
    layers: list[nn.Module] = [
        conv(3, 32, 3, 2),
        conv(32, 32, groups=32),
        conv(32, 16, 1, act=None),
    ]
    given = 16
    for kernel, expand, made, depth, stride in (
        *((3, 3, 24, 3, 2), (5, 3, 40, 3, 2), (5, 6, 80, 3, 2)),
        *((3, 6, 96, 2, 1), (5, 6, 192, 4, 2), (3, 6, 320, 1, 1)),
    ):
        for place in range(depth):
            wide, step = given * expand, stride if place == 0 else 1
            depthwise = conv(wide, wide, kernel, step, groups=wide)
            block = nn.Sequential(conv(given, wide, 1), depthwise, conv(wide, made, 1, act=None))
            layers.append(Sum(None, block) if place else block)
            given = made
    return nn.Sequential(*layers, conv(320, 1280, 1), classifier(1280))


def _ghost(given: int, made: int, act: type[nn.Module] | None = nn.ReLU) -> nn.Module:
    """Half of the channels by a 1x1 convolution, the others from those, depthwise."""
    half = made // 2
    return nn.Sequential(
        conv(given, half, 1, act=act), Join(None, conv(half, half, 3, 1, act, half))
    )


def ghostnet() -> nn.Module:
    """GhostNet 1.0 (Han et al. 2020). Input 3x224x224."""
    layers: list[nn.Module] = [conv(3, 16, 3, 2)]
    given = 16
    for kernel, wide, made, scaled, stride in (
        *((3, 16, 16, 0, 1), (3, 48, 24, 0, 2), (3, 72, 24, 0, 1), (5, 72, 40, 1, 2)),
        *((5, 120, 40, 1, 1), (3, 240, 80, 0, 2), (3, 200, 80, 0, 1), (3, 184, 80, 0, 1)),
        *((3, 480, 112, 1, 1), (3, 672, 112, 1, 1), (5, 672, 160, 1, 2), (5, 960, 160, 1, 1)),
    ):
        parts = [_ghost(given, wide)]
        if stride == 2:
            parts.append(conv(wide, wide, kernel, 2, None, wide))
        if scaled:
            parts.append(Scale(wide, wide // 4, nn.Hardsigmoid()))
        block = nn.Sequential(*parts, _ghost(wide, made, None))
        short = None
        if stride == 2 or made != given:
            depthwise = conv(given, given, kernel, stride, None, given)
            short = nn.Sequential(depthwise, conv(given, made, 1, act=None))
        layers.append(Sum(short, block))
        given = made
    return nn.Sequential(*layers, conv(160, 960, 1), classifier(960))


class C2f(nn.Module):
    """YOLOv8's stage: half of the channels pass bottlenecks, and all that they give is joined."""

    def __init__(self, given: int, made: int, depth: int, residual: bool):
        super().__init__()
        half = made // 2
        self.enter = conv(given, made, 1, act=nn.SiLU)
        blocks = (
            nn.Sequential(*(conv(half, half, 3, 1, nn.SiLU) for _ in "ab")) for _ in range(depth)
        )
        self.blocks = nn.ModuleList(Sum(None, b) if residual else b for b in blocks)
        self.leave = conv(half * (2 + depth), made, 1, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.enter(x).chunk(2, 1))
        for block in self.blocks:
            parts.append(block(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class Sppf(nn.Module):
    """Max pools one after the other, joined (YOLOv5)."""

    def __init__(self, channels: int):
        super().__init__()
        self.enter = conv(channels, channels // 2, 1, act=nn.SiLU)
        self.pool = nn.MaxPool2d(5, 1, 2)
        self.leave = conv(channels * 2, channels, 1, act=nn.SiLU)

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.enter(x)]
        for _ in range(3):
            parts.append(self.pool(parts[-1]))
        return self.leave(torch.cat(parts, 1))


class YoloV8(nn.Module):
    """YOLOv8-nano (Jocher et al. 2023) with its decoded boxes, before suppression.

    Input 3xHxW of multiples of 32, results 1 x (4 + classes) x candidates.
    """

    def __init__(self, classes: int = 80, bins: int = 16):
        super().__init__()
        down = [
            conv(a, b, 3, 2, nn.SiLU)
            for a, b in ((3, 16), (16, 32), (32, 64), (64, 128), (128, 256))
        ]
        body = [C2f(w, w, d, True) for w, d in ((32, 1), (64, 2), (128, 2), (256, 1))]
        self.stem = nn.Sequential(down[0], down[1], body[0], down[2], body[1])
        self.middle = nn.Sequential(down[3], body[2])
        self.deep = nn.Sequential(down[4], body[3], Sppf(256))
        self.merge = nn.ModuleList(
            C2f(g, m, 1, False) for g, m in ((384, 128), (192, 64), (192, 128), (384, 256))
        )
        self.shrink = nn.ModuleList(conv(c, c, 3, 2, nn.SiLU) for c in (64, 128))
        self.boxes = nn.ModuleList(self._head(c, 64, 4 * bins) for c in (64, 128, 256))
        self.scores = nn.ModuleList(self._head(c, 80, classes) for c in (64, 128, 256))
        self.register_buffer("bins", torch.arange(bins, dtype=torch.float32).view(1, 1, bins, 1))

    @staticmethod
    def _head(given: int, width: int, made: int) -> nn.Module:
        layers = (conv(given, width, 3, 1, nn.SiLU), conv(width, width, 3, 1, nn.SiLU))
        return nn.Sequential(*layers, nn.Conv2d(width, made, 1))

    def forward(self, x: Tensor) -> Tensor:
        fine = self.stem(x)
        middle = self.middle(fine)
        deep = self.deep(middle)
        up = self.merge[0](torch.cat([functional.interpolate(deep, scale_factor=2.0), middle], 1))
        fine = self.merge[1](torch.cat([functional.interpolate(up, scale_factor=2.0), fine], 1))
        middle = self.merge[2](torch.cat([self.shrink[0](fine), up], 1))
        deep = self.merge[3](torch.cat([self.shrink[1](middle), deep], 1))
        levels = (fine, middle, deep)
        found = [self._decode(m, place) for place, m in enumerate(levels)]
        return torch.cat(found, 2)

    def _decode(self, x: Tensor, level: int) -> Tensor:
        """Boxes as centre and size in pixels from distances that are means of distributions."""
        height, width = x.shape[2:]
        shares = self.boxes[level](x).view(1, 4, -1, height * width).softmax(2)
        near, far = (shares * self.bins).sum(2).chunk(2, 1)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        cells = torch.stack([columns, rows]).view(1, 2, -1) + 0.5
        box = torch.cat([cells + (far - near) / 2, near + far], 1) * 8 * 2**level
        return torch.cat([box, self.scores[level](x).flatten(2).sigmoid()], 1)


class DeepLab(nn.Module):
    """DeepLabV3 (Chen et al. 2017) on a dilated ResNet-18. Input 3xHxW, results 21xHxW."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
        given = 64
        for made, stride, wide in ((64, 1, 1), (128, 2, 1), (256, 1, 2), (512, 1, 4)):
            for place in range(2):
                first = conv(given, made, 3, stride if place == 0 else 1, dilation=wide)
                branch = nn.Sequential(first, conv(made, made, 3, act=None, dilation=wide))
                short = conv(given, made, 1, stride, None) if given != made else None
                layers.append(Sum(branch, short, last=nn.ReLU()))
                given = made
        self.body = nn.Sequential(*layers)
        self.pyramid = Join(conv(512, 256, 1), *(conv(512, 256, dilation=d) for d in (6, 12, 18)))
        self.whole = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(512, 256, 1), nn.ReLU())
        self.head = nn.Sequential(conv(1280, 256, 1), conv(256, 256), nn.Conv2d(256, 21, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        whole = self.whole(y).expand(-1, -1, *y.shape[2:])
        y = self.head(torch.cat([self.pyramid(y), whole], 1))
        return functional.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)


def espcn(scale: int = 3) -> nn.Module:
    """ESPCN super resolution (Shi et al. 2016). Input 1xHxW."""
    layers = [nn.Conv2d(1, 64, 5, padding=2), nn.Tanh(), nn.Conv2d(64, 32, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Conv2d(32, scale**2, 3, padding=1), nn.PixelShuffle(scale))


class DnCnn(nn.Module):
    """DnCNN denoiser (Zhang et al. 2017): 17 layers find the noise. Input 1xHxW."""

    def __init__(self) -> None:
        super().__init__()
        first = (nn.Conv2d(1, 64, 3, padding=1), nn.ReLU())
        self.noise = nn.Sequential(
            *first, *(conv(64, 64) for _ in range(15)), nn.Conv2d(64, 1, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x - self.noise(x)


def _conv3d(given: int, made: int, stride: int = 1, act: bool = True) -> nn.Module:
    layer = nn.Conv3d(given, made, 3, stride, 1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm3d(made), *([nn.ReLU()] if act else []))


def r3d18() -> nn.Module:
    """R3D-18 (Tran et al. 2018): ResNet-18 with 3-D convolutions. Input 3 x frames x H x W."""
    stem = nn.Conv3d(3, 64, (3, 7, 7), (1, 2, 2), (1, 3, 3), bias=False)
    layers: list[nn.Module] = [stem, nn.BatchNorm3d(64), nn.ReLU()]
    given = 64
    for made in (64, 128, 256, 512):
        for _ in range(2):
            stride = made // given
            branch = nn.Sequential(_conv3d(given, made, stride), _conv3d(made, made, act=False))
            short = nn.Sequential(
                nn.Conv3d(given, made, 1, stride, bias=False), nn.BatchNorm3d(made)
            )
            layers.append(Sum(branch, short if given != made else None, last=nn.ReLU()))
            given = made
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(512, 400))


class Tagger(nn.Module):
    """A tag for each token from two bidirectional recurrent layers (Huang et al. 2015)."""

    def __init__(self, cell: type[nn.RNNBase], words: int = 5000, width: int = 256, tags: int = 32):
        super().__init__()
        self.embed = nn.Embedding(words, width)
        self.recur = cell(width, width, num_layers=2, bidirectional=True, batch_first=True)
        self.tags = nn.Linear(2 * width, tags)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.tags(self.recur(self.embed(tokens))[0]).log_softmax(-1)


def mlp_mixer(width: int = 512, depth: int = 8, patches: int = 196) -> nn.Module:
    """MLP-Mixer S/16 (Tolstikhin et al. 2021). Input 3x224x224."""

    def mlp(inner: int, hidden: int) -> nn.Module:
        return nn.Sequential(nn.Linear(inner, hidden), nn.GELU(), nn.Linear(hidden, inner))

    def block() -> nn.Module:
        tokens = nn.Sequential(nn.LayerNorm(width), OnTranspose(mlp(patches, width // 2)))
        channels = nn.Sequential(nn.LayerNorm(width), mlp(width, 4 * width))
        return nn.Sequential(Sum(None, tokens), Sum(None, channels))

    enter = nn.Sequential(nn.Conv2d(3, width, 16, 16), nn.Flatten(2))
    inner = nn.Sequential(*(block() for _ in range(depth)), nn.LayerNorm(width))
    return nn.Sequential(
        enter, OnTranspose(inner), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(width, 1000)
    )


def _points(*widths: int) -> list[nn.Module]:
    """The same layers for every point."""
    layers: list[nn.Module] = []
    for given, made in pairwise(widths):
        layers += [nn.Conv1d(given, made, 1), nn.BatchNorm1d(made), nn.ReLU()]
    return layers


class PointNet(nn.Module):
    """PointNet's classifier with its input transform (Qi et al. 2017). Input 3 x points."""

    def __init__(self) -> None:
        super().__init__()
        largest = (nn.AdaptiveMaxPool1d(1), nn.Flatten())
        dense = (nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU())
        self.turn = nn.Sequential(*_points(3, 64, 128, 1024), *largest, *dense, nn.Linear(256, 9))
        dense = (nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 256), nn.ReLU())
        self.body = nn.Sequential(
            *_points(3, 64, 64, 128, 1024), *largest, *dense, nn.Linear(256, 40)
        )

    def forward(self, x: Tensor) -> Tensor:
        turn = self.turn(x).view(-1, 3, 3) + torch.eye(3)
        return self.body(torch.bmm(turn, x)).log_softmax(-1)


class PointPillars(nn.Module):
    """PointPillars (Lang et al. 2019): pillars of points scattered onto a map, and its detector.

    Inputs: pillars x points x 9 features, and the cell that each pillar stands on.
    """

    def __init__(self, size: int = 128):
        super().__init__()
        self.size = size
        self.point = nn.Linear(9, 64)
        blocks, ups = [], []
        for given, made, stride, depth in ((64, 64, 2, 3), (64, 128, 2, 5), (128, 256, 2, 5)):
            blocks.append(
                nn.Sequential(
                    conv(given, made, 3, stride), *(conv(made, made) for _ in range(depth))
                )
            )
            factor = made // 64
            up = nn.ConvTranspose2d(made, 128, factor, factor, bias=False)
            ups.append(nn.Sequential(up, nn.BatchNorm2d(128), nn.ReLU()))
        self.blocks, self.ups = nn.ModuleList(blocks), nn.ModuleList(ups)
        self.heads = nn.ModuleList(nn.Conv2d(384, made, 1) for made in (18, 42, 12))

    def forward(self, pillars: Tensor, cells: Tensor) -> tuple[Tensor, ...]:
        features = self.point(pillars).relu().amax(1)
        canvas = torch.zeros(self.size * self.size, 64)
        x = canvas.index_put((cells,), features).t().reshape(1, 64, self.size, self.size)
        found = []
        for block, up in zip(self.blocks, self.ups, strict=True):
            x = block(x)
            found.append(up(x))
        joined = torch.cat(found, 1)
        return tuple(head(joined) for head in self.heads)


def lanenet(widths: Sequence[int] = (16, 64, 128)) -> nn.Module:
    """A lane segmenter of ENet's kind (Paszke et al. 2016): factored and dilated convolutions down,
    deconvolutions up. Input 3xHxW, results 5xHxW."""

    def block(width: int, dilation: int) -> nn.Module:
        inner = width // 4
        tall = nn.Conv2d(inner, inner, (5, 1), padding=(2, 0), bias=False)
        wide = nn.Conv2d(inner, inner, (1, 5), padding=(0, 2), bias=False)
        middle = (tall, wide, nn.BatchNorm2d(inner), nn.PReLU())
        ends = conv(width, inner, 1, act=nn.PReLU), conv(inner, width, 1, act=None)
        around = conv(inner, inner, 3, 1, nn.PReLU, dilation=dilation)
        return Sum(None, nn.Sequential(ends[0], *middle, around, ends[1]), last=nn.PReLU())

    layers: list[nn.Module] = [Join(conv(3, 13, 3, 2, nn.PReLU), nn.MaxPool2d(2))]
    for given, made in pairwise(widths):
        layers.append(conv(given, made, 3, 2, nn.PReLU))
        layers += [block(made, dilation) for dilation in (1, 2, 4, 8)]
    for given, made in ((widths[2], widths[1]), (widths[1], widths[0])):
        up = nn.ConvTranspose2d(given, made, 3, 2, 1, 1, bias=False)
        layers += [up, nn.BatchNorm2d(made), nn.ReLU(), block(made, 1)]
    return nn.Sequential(*layers, nn.ConvTranspose2d(widths[0], 5, 2, 2))


def pillars(count: int = 2000, points: int = 32) -> Example:
    cells = torch.randperm(128 * 128)[:count]
    return PointPillars(), (torch.rand(count, points, 9), cells)


NETWORKS: dict[str, Callable[[], Example]] = {
    "bilstm_tagger_64": lambda: (Tagger(nn.LSTM), (torch.randint(0, 5000, (1, 64)),)),
    "deeplab_r18_256": lambda: (DeepLab(), pixels(3, 256, 256)),
    "dncnn_128": lambda: (DnCnn(), pixels(1, 128, 128)),
    "espcn_224": lambda: (espcn(), pixels(1, 224, 224)),
    "ghostnet": lambda: (ghostnet(), pixels(3, 224, 224)),
    "gru_tagger_64": lambda: (Tagger(nn.GRU), (torch.randint(0, 5000, (1, 64)),)),
    "lanenet_256x512": lambda: (lanenet(), pixels(3, 256, 512)),
    "mlp_mixer_s16": lambda: (mlp_mixer(), pixels(3, 224, 224)),
    "mnasnet": lambda: (mnasnet(), pixels(3, 224, 224)),
    "mobilenet_v3_large": lambda: (mobilenet_v3(), pixels(3, 224, 224)),
    "pointnet_1024": lambda: (PointNet(), (torch.rand(1, 3, 1024),)),
    "pointpillars": pillars,
    "r3d18_8x112": lambda: (r3d18(), pixels(3, 8, 112, 112)),
    "resnext50": lambda: (resnext50(), pixels(3, 224, 224)),
    "yolov8n_320": lambda: (YoloV8(), pixels(3, 320, 320)),
}
