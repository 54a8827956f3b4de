"""Softmax and the normalisation layers; most map to one composite."""

from __future__ import annotations

from tilth.ir.errors import UnsupportedError
from tilth.ir.graph import Value
from tilth.ir.ops.helpers import align, as_dtype, as_shape, broadcast_to, mean
from tilth.ir.ops.table import op
from tilth.ir.types import DType, f32
from tilth.onnx.build import flatten, full, normal_axis, scalar
from tilth.onnx.context import NodeContext
from tilth.onnx.registry import onnx_op

_SOFTMAX = {"Softmax": "softmax", "LogSoftmax": "log_softmax"}


@onnx_op("Softmax", "LogSoftmax", since=13)
def softmax(cx: NodeContext, x: Value) -> Value:
    axis = normal_axis(cx.attr("axis", -1), len(x.shape))
    return getattr(op, _SOFTMAX[cx.op_type])(x, axis=axis)


@onnx_op("Softmax", "LogSoftmax", since=1)
def softmax_flat(cx: NodeContext, x: Value) -> Value:
    """Before opset 13 all dimensions from `axis` on are one."""
    axis, build = normal_axis(cx.attr("axis", 1), len(x.shape)), getattr(op, _SOFTMAX[cx.op_type])
    if x.shape[axis:] == (x.shape[axis], *(1,) * (len(x.shape) - axis - 1)):
        return build(x, axis=axis)
    return as_shape(build(flatten(x, axis), axis=1), x.shape)


@onnx_op("LRN")
def lrn(cx: NodeContext, x: Value) -> Value:
    return op.lrn(
        x,
        size=cx.attr("size"),
        alpha=cx.attr("alpha", 1e-4),
        beta=cx.attr("beta", 0.75),
        bias=cx.attr("bias", 1.0),
        axis=1,
    )


# Batch normalisation


def _is_training(cx: NodeContext) -> bool:
    if cx.version >= 14:
        return bool(cx.attr("training_mode", 0))
    if cx.version >= 7:  # the extra outputs exist only while training
        return any(cx.wants(i) for i in range(1, cx.output_count))
    return not cx.attr("is_test", 0)


@onnx_op("BatchNormalization")
def batch_normalization(
    cx: NodeContext, x: Value, scale: Value, bias: Value, running_mean: Value, running_var: Value
) -> list[Value]:
    if not cx.attr("spatial", 1):
        raise UnsupportedError(f"{cx.label}: spatial=0 (statistics per element)")
    epsilon = cx.attr("epsilon", 1e-5)
    dtype, statistics = x.tensor.dtype, running_mean.tensor.dtype
    wide = _widest(dtype, scale.tensor.dtype, statistics)
    x, scale, bias = (as_dtype(v, wide) for v in (x, scale, bias))
    old = [as_dtype(v, wide) for v in (running_mean, running_var)]
    if not _is_training(cx):
        return [as_dtype(op.batch_norm(x, scale, bias, *old, epsilon=epsilon, axis=1), dtype)]
    new = _batch_statistics(x)
    y = op.batch_norm(x, scale, bias, *new, epsilon=epsilon, axis=1)
    keep = scalar(cx.attr("momentum", 0.9), wide)
    take = op.subtract(scalar(1, wide), keep)
    mixed = [
        op.add(op.multiply(o, keep), op.multiply(n, take)) for o, n in zip(old, new, strict=True)
    ]
    return [as_dtype(y, dtype), *(as_dtype(v, statistics) for v in mixed)]


def _widest(*dtypes: DType) -> DType:
    return max(dtypes, key=lambda d: d.bits)


def _batch_statistics(x: Value) -> list[Value]:
    """Mean and (population) variance per channel."""
    axes = tuple(i for i in range(len(x.shape)) if i != 1)
    centre = mean(x, axes)
    off = op.subtract(x, centre)
    return [as_shape(v, (x.shape[1],)) for v in (centre, mean(op.multiply(off, off), axes))]


# Instance, group, layer and root-mean-square normalisation


@onnx_op("InstanceNormalization")
def instance_normalization(cx: NodeContext, x: Value, scale: Value, bias: Value) -> Value:
    return op.instance_norm(x, scale, bias, epsilon=cx.attr("epsilon", 1e-5))


@onnx_op("GroupNormalization")
def group_normalization(cx: NodeContext, x: Value, scale: Value, bias: Value) -> Value:
    groups, channels = cx.attr("num_groups"), x.shape[1]
    if scale.shape != (channels,):  # before opset 21 one scale per group
        scale, bias = (_per_channel(v, channels) for v in (scale, bias))
    return op.group_norm(x, scale, bias, groups=groups, epsilon=cx.attr("epsilon", 1e-5))


def _per_channel(per_group: Value, channels: int) -> Value:
    (groups,) = per_group.shape
    return as_shape(broadcast_to(align(per_group, 0, 2), (groups, channels // groups)), (channels,))


@onnx_op("LayerNormalization")
def layer_normalization(
    cx: NodeContext, x: Value, scale: Value, bias: Value | None = None
) -> list[Value]:
    axis, epsilon = normal_axis(cx.attr("axis", -1), len(x.shape)), cx.attr("epsilon", 1e-5)
    shift = full(0, x.shape[axis:], x.tensor.dtype) if bias is None else bias
    y = op.layer_norm(x, scale, shift, axis=axis, epsilon=epsilon)
    if not (cx.wants(1) or cx.wants(2)):
        return [y]
    axes, wide = tuple(range(axis, len(x.shape))), x
    if cx.attr("stash_type", 1) == 1:
        wide = as_dtype(x, f32)
    centre = mean(wide, axes)
    off = op.subtract(wide, centre)
    variance = mean(op.multiply(off, off), axes)
    return [y, centre, op.rsqrt(op.add(variance, scalar(epsilon, wide)))]


@onnx_op("RMSNormalization")
@onnx_op("SimplifiedLayerNormalization")  # its name in ONNX Runtime, before the standard had it
def rms_normalization(cx: NodeContext, x: Value, scale: Value) -> list[Value]:
    """The second output, of the older name only, is what x is multiplied with: 1 / root."""
    axis, epsilon = normal_axis(cx.attr("axis", -1), len(x.shape)), cx.attr("epsilon", 1e-5)
    dtype = scale.tensor.dtype
    wide = f32 if cx.attr("stash_type", 1) == 1 else dtype
    x, scale = as_dtype(x, wide), as_dtype(scale, wide)
    y = as_dtype(op.rms_norm(x, scale, axis=axis, epsilon=epsilon), dtype)
    if not cx.wants(1):
        return [y]
    power = mean(op.multiply(x, x), tuple(range(axis, len(x.shape))))
    return [y, op.rsqrt(op.add(power, scalar(epsilon, x)))]


@onnx_op("MeanVarianceNormalization")
def mean_variance_normalization(cx: NodeContext, x: Value) -> Value:
    axes = tuple(normal_axis(a, len(x.shape)) for a in cx.attr("axes", (0, 2, 3)))
    off = op.subtract(x, mean(x, axes))
    deviation = op.sqrt(mean(op.multiply(off, off), axes))
    return op.divide(off, op.add(deviation, scalar(1e-9, x)))
