"""A network's first convolutions, kept between steps and recomputed only around the features that changed.

A step of JSMA changes one or two features of an image, which move nothing in a convolution's output but a small
window; two 3x3 layers widen it to 5x5 pixels. What lies behind sees every change, and so does the backward pass:
both are computed whole. The result is the network's own, apart from the order in which floating point adds.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.models import Network

SHARE = 0.25  # of a layer's output that the windows may cover; beyond it recomputing all is as fast
TOLERANCE = 1e-3  # by which logits and gradients may differ from the network's own, relative to the largest


class Layer:
    """A convolution, the ReLU behind it if there is one, and its output for every image in work.

    Attributes
    ----------
    window : tuple of int
        Height and width of what one feature of the image moves in the output.
    kept : Tensor
        (B, H, W, C).
    """

    def __init__(self, conv: nn.Conv2d, rectified: bool, window: tuple[int, int]) -> None:
        self.weight, self.bias = conv.weight, conv.bias
        self.kernel, self.padding = (conv.weight.shape[2], conv.weight.shape[3]), (int(conv.padding[0]), int(conv.padding[1]))
        self.rectified, self.window = rectified, window
        self.kept = torch.empty(0)

    def __call__(self, below: Tensor, padding: tuple[int, int] | None = None) -> Tensor:
        """(B, H, W, C) to (B, H', W', C')."""
        out = F.conv2d(below.permute(0, 3, 1, 2), self.weight, self.bias, padding=self.padding if padding is None else padding)
        return (out.relu_() if self.rectified else out).permute(0, 2, 3, 1).contiguous()

    def renew(self, below: Tensor, top: Tensor, left: Tensor) -> None:
        """Compute the windows anew that begin at (``top``, ``left``), both (B, windows), from the input (B, H, W, C)."""
        count = top.shape[1]
        rows, columns = self.kept.shape[1:3]
        top, left = top.clamp(0, rows - self.window[0]), left.clamp(0, columns - self.window[1])
        height, width = (size + kernel - 1 for size, kernel in zip(self.window, self.kernel, strict=True))
        patches = _patches(below, top - self.padding[0], left - self.padding[1], height, width, padded=any(self.padding))
        new = self(patches, padding=(0, 0)).view(len(top), count, -1, self.kept.shape[3])
        place, _ = _places(self.kept, top, left, *self.window)
        kept = self.kept.view(-1, self.kept.shape[3])
        for one in range(count):  # windows of one image may overlap: one after the other, for a fixed order on every device
            kept.index_copy_(0, place[:, one].flatten(), new[:, one].flatten(0, 1))

    def backward(self, gradient: Tensor, below: Tensor) -> Tensor:
        """The gradient in the input ``below`` (B, H, W, C) from the one in the output (B, H', W', C')."""
        if self.rectified:
            gradient = torch.ops.aten.threshold_backward(gradient, self.kept, 0)
        if self.weight[0].numel() <= len(self.weight):
            return self._few_channels(gradient, below)
        return torch.ops.aten.convolution_backward(
            gradient.permute(0, 3, 1, 2), below.permute(0, 3, 1, 2), self.weight, None, [1, 1], self.padding, [1, 1], False, [0, 0], 1,
            [True, False, False],
        )[0].permute(0, 2, 3, 1)  # fmt: skip

    def _few_channels(self, gradient: Tensor, below: Tensor) -> Tensor:
        """A matrix product, no larger than the gradient, and a sum of shifted images.

        A convolution to one channel or three leaves most of a CPU's lanes idle.
        """
        batch, height, width, channels = below.shape
        rows, columns = gradient.shape[1:3]
        flat = self.weight.permute(0, 2, 3, 1).flatten(1)  # (C', kernel area * C)
        parts = (gradient.reshape(-1, len(flat)) @ flat).view(batch, rows, columns, *self.kernel, channels)
        total = gradient.new_zeros(batch, height + 2 * self.padding[0], width + 2 * self.padding[1], channels)
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                total[:, i : i + rows, j : j + columns] += parts[:, :, :, i, j]
        return total[:, self.padding[0] :, self.padding[1] :][:, :height, :width]


class Stem:
    """The convolutions at the stem of a network, with their outputs for the images in work.

    Parameters
    ----------
    layers : list of Layer
    rest : list of nn.Module
        What comes behind them, one after the other.
    """

    def __init__(self, layers: list[Layer], rest: list[nn.Module]) -> None:
        self.layers, self.modules = layers, rest
        self.images = torch.empty(0)

    @classmethod
    def find(cls, model: nn.Module, x: Tensor, windows: int = 2) -> Stem | None:
        """The stem of this network; None where it has none, or where nothing is to be gained.

        A stem is seen only where it is plain what a network computes: in an `nn.Sequential`, of others or not, and in the
        networks of Table I, as far as no module has a hook or a `forward` of its own. It is tried out on ``x``
        (N, C, H, W), a few images: it has to give the network's logits and gradient.
        """
        modules = list(_sequence(model))
        layers: list[Layer] = []
        window, shape, at = (1, 1), x.shape[1:], 0
        while x.ndim == 4 and at < len(modules) and (conv := _plain(modules[at])) is not None:
            kernel = conv.weight.shape[2:]
            window = (window[0] + kernel[0] - 1, window[1] + kernel[1] - 1)
            size = [shape[1 + axis] + 2 * int(conv.padding[axis]) - kernel[axis] + 1 for axis in (0, 1)]
            if window[0] > size[0] or window[1] > size[1] or windows * window[0] * window[1] > SHARE * size[0] * size[1]:
                break
            rectified = at + 1 < len(modules) and type(modules[at + 1]) is nn.ReLU and not _changed(modules[at + 1])
            layers.append(Layer(conv, rectified, window))
            at, shape = at + 1 + rectified, torch.Size((len(conv.weight), *size))
        stem = cls(layers, modules[at:])
        return stem if layers and stem._agrees(model, x) else None

    def _agrees(self, model: nn.Module, x: Tensor) -> bool:
        with torch.enable_grad(), torch.random.fork_rng(devices=[]):
            leaf = x.detach().clone().requires_grad_()
            logits = model(leaf)
            mixed = torch.linspace(-1, 1, logits[0].numel(), dtype=logits.dtype, device=logits.device)
            (gradient,) = torch.autograd.grad((logits * mixed).sum(), leaf)
            try:
                self.fill(x)
                cut = self.cut()
                again = self.rest(cut)
                (above,) = torch.autograd.grad((again * mixed).sum(), cut)
                pairs = ((logits, again), (gradient, self.back(above)))
            except RuntimeError:  # of a module that changes what it is given, and may not change a leaf
                return False
        return all(one.shape == other.shape and bool(((one - other).abs() <= TOLERANCE * one.abs().max()).all()) for one, other in pairs)

    def fill(self, x: Tensor) -> None:
        """Take images (B, C, H, W) into work, instead of those that were."""
        self.images = below = _last(x)
        for layer in self.layers:
            layer.kept = below = layer(below)

    def replace(self, rows: Tensor, x: Tensor) -> None:
        """Images (N, C, H, W) take the places ``rows`` (N,)."""
        below = _last(x)
        self.images = self.images.index_copy(0, rows, below)
        for layer in self.layers:
            below = layer(below)
            layer.kept.index_copy_(0, rows, below)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone, in this order."""
        self.images = self.images[rows]
        for layer in self.layers:
            layer.kept = layer.kept[rows]

    def move(self, x: Tensor, chosen: Tensor) -> None:
        """The images in work have become ``x`` (B, C, H, W) by changes of the features ``chosen``, int64 (B, features a step)."""
        self.images = below = _last(x)
        width = x.shape[3]
        pixel = chosen % (x.shape[2] * width)
        top, left = torch.div(pixel, width, rounding_mode="floor"), pixel % width
        for layer in self.layers:
            top, left = top + layer.padding[0] - layer.kernel[0] + 1, left + layer.padding[1] - layer.kernel[1] + 1
            layer.renew(below, top, left)
            below = layer.kept

    def cut(self) -> Tensor:
        """The stem's output (B, C, H, W) as a leaf that requires a gradient."""
        return self.layers[-1].kept.permute(0, 3, 1, 2).detach().requires_grad_()

    def rest(self, cut: Tensor) -> Tensor:
        """The network's logits from the stem's output ``cut``."""
        for module in self.modules:
            cut = module(cut)
        return cut

    def back(self, gradient: Tensor) -> Tensor:
        """The gradient in the images (B, C, H, W) from the one in the stem's output."""
        gradient = _last(gradient)
        inputs = [self.images, *(layer.kept for layer in self.layers[:-1])]
        for layer, below in zip(reversed(self.layers), reversed(inputs), strict=True):
            gradient = layer.backward(gradient, below)
        return gradient.permute(0, 3, 1, 2)


def _last(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H, W, C), contiguous."""
    return x.permute(0, 2, 3, 1).contiguous()


def _sequence(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that are computed one after the other, as far as the network is nothing but a sequence."""
    if type(model) in (nn.Sequential, Network) and not _changed(model):
        for module in model.children():
            yield from _sequence(module)
    else:
        yield model


def _changed(module: nn.Module) -> bool:
    """Whether calling this module does anything else than its class says: hooks, a forward of its own, a compiled one."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in hooks) or "forward" in vars(module) or module._compiled_call_impl is not None


def _plain(module: nn.Module) -> nn.Conv2d | None:
    """The module, if it is a convolution that a window can be computed of."""
    if type(module) is not nn.Conv2d or _changed(module) or not isinstance(module.padding, tuple):
        return None
    plain = (module.stride, module.dilation, module.groups, module.padding_mode) == ((1, 1), (1, 1), 1, "zeros")
    return module if plain and len(module.padding) == 2 and isinstance(module.weight, nn.Parameter) else None


def _places(images: Tensor, top: Tensor, left: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Where the windows at (``top``, ``left``), both (B, windows), lie in images (B, H, W, C) whose first three dimensions are one.

    Returns int64 and bool, both (B, windows, height * width): the place, and whether it is inside the image; the place
    of a pixel outside is that of the nearest inside.
    """
    batch, rows, columns = images.shape[:3]
    row = (top[..., None] + torch.arange(height, device=top.device))[..., :, None]
    column = (left[..., None] + torch.arange(width, device=top.device))[..., None, :]
    inside = ((row >= 0) & (row < rows)) & ((column >= 0) & (column < columns))
    first = torch.arange(batch, device=top.device).view(-1, 1, 1, 1) * (rows * columns)
    place = first + row.clamp(0, rows - 1) * columns + column.clamp(0, columns - 1)
    return place.flatten(2), inside.flatten(2)


def _patches(images: Tensor, top: Tensor, left: Tensor, height: int, width: int, *, padded: bool) -> Tensor:
    """Windows (B * windows, height, width, C) of images (B, H, W, C), zero outside of them."""
    place, inside = _places(images, top, left, height, width)
    found = images.view(-1, images.shape[3]).index_select(0, place.flatten())
    if padded:
        found = found.masked_fill(~inside.flatten()[:, None], 0)
    return found.view(-1, height, width, images.shape[3])
