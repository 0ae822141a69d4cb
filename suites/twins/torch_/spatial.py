"""PyTorch twins of convolution and pooling."""

import torch
import torch.nn.functional as F

from gradcheck.reference.convolution import Convolution
from gradcheck.reference.pooling import AveragePool, MaxPool
from gradcheck.suites.twins.missing import NoTwin
from gradcheck.suites.twins.torch_.registry import Outputs, Params, apply

__all__: list[str] = []

CONVOLUTION = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
MAX_POOL = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
AVERAGE_POOL = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@apply.register
def convolution(layer: Convolution, params: Params, x: torch.Tensor) -> Outputs:
    _require_axes(layer, len(layer.kernel))
    windows = layer.windows
    y = CONVOLUTION[windows.axes](
        x,
        params["weight"],
        params.get("bias"),
        stride=windows.stride,
        padding=windows.padding,
        dilation=windows.dilation,
        groups=layer.groups,
    )
    return (y,)


@apply.register
def max_pool(layer: MaxPool, params: Params, x: torch.Tensor) -> Outputs:
    """A window of padding alone is refused here: PyTorch 2.13 then writes past its gradient."""
    _require_axes(layer, len(layer.kernel))
    _require_little_padding(layer)
    windows = layer.windows
    windows.inside(tuple(x.shape[2:]))
    y = MAX_POOL[windows.axes](x, windows.kernel, windows.stride, windows.padding, windows.dilation)
    return (y,)


@apply.register
def average_pool(layer: AveragePool, params: Params, x: torch.Tensor) -> Outputs:
    _require_axes(layer, len(layer.kernel))
    _require_little_padding(layer)
    windows = layer.windows
    y = AVERAGE_POOL[windows.axes](
        x,
        windows.kernel,
        windows.stride,
        windows.padding,
        count_include_pad=layer.count_include_pad,
    )
    return (y,)


def _require_axes(layer: object, axes: int) -> None:
    if axes not in CONVOLUTION:
        raise NoTwin(layer, "torch", f"there are kernels for 1 to 3 spatial axes, not for {axes}")


def _require_little_padding(layer: MaxPool | AveragePool) -> None:
    windows = layer.windows
    if any(2 * p > k for k, p in zip(windows.kernel, windows.padding, strict=True)):
        raise NoTwin(layer, "torch", "padding beyond half of the kernel is refused")
