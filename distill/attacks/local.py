"""A network's first convolutions, kept between steps and recomputed only around the features that changed.

A step of JSMA changes one or two features of an image, which move nothing in a convolution's output but a small
window; two 3x3 layers widen it to 5x5 pixels. What lies behind sees every change, and so does the backward pass:
both are computed whole. The result is the network's own, apart from the order in which floating point adds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SHARE = 0.25  # of a layer's output that the windows may cover; beyond it recomputing all is as fast
TOLERANCE = 1e-3  # by which logits and gradients may differ from the network's own, relative to the largest
FEW = 8  # channels


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
        self.kernel, self.padding = conv.kernel_size, (int(conv.padding[0]), int(conv.padding[1]))
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
        if below.shape[3] < FEW:
            return self._few_channels(gradient, below)
        return torch.ops.aten.convolution_backward(
            gradient.permute(0, 3, 1, 2), below.permute(0, 3, 1, 2), self.weight, None, [1, 1], self.padding, [1, 1], False, [0, 0], 1,
            [True, False, False],
        )[0].permute(0, 2, 3, 1)  # fmt: skip

    def _few_channels(self, gradient: Tensor, below: Tensor) -> Tensor:
        """A matrix product and a sum of shifted images: a convolution to one channel or three leaves most of a CPU's lanes idle."""
        batch, height, width, channels = below.shape
        rows, columns = gradient.shape[1:3]
        flat = self.weight.permute(0, 2, 3, 1).flatten(1)  # (C', kernel area * C)
        parts = (gradient.reshape(-1, len(flat)) @ flat).view(batch, rows, columns, *self.kernel, channels)
        total = gradient.new_zeros(batch, height + 2 * self.padding[0], width + 2 * self.padding[1], channels)
        for i in range(self.kernel[0]):
            for j in range(self.kernel[1]):
                total[:, i : i + rows, j : j + columns] += parts[:, :, :, i, j]
        return total[:, self.padding[0] :, self.padding[1] :][:, :height, :width]


class Head:
    """The convolutions at the head of a network, with their outputs for the images in work.

    Parameters
    ----------
    modules : list of nn.Module
        `nn.Conv2d` and `nn.ReLU` as they follow one another in the network.
    layers : list of Layer
        What they compute.
    """

    def __init__(self, modules: list[nn.Module], layers: list[Layer]) -> None:
        self.modules, self.layers = modules, layers
        self.images = torch.empty(0)

    @classmethod
    def find(cls, model: nn.Module, x: Tensor, windows: int = 2) -> Head | None:
        """The head of this network; None where it has none, where nothing is to be gained, or where it cannot be replaced.

        It is tried out on ``x`` (N, C, H, W), a few images: the network without its head has to give the same logits
        and the same gradient from the head's output, and to make nothing else of the images.
        """
        layers: list[Layer] = []
        modules: list[nn.Module] = []
        window = (1, 1)
        chain = _chain(model, x) if x.ndim == 4 else []
        for at, (module, shape) in enumerate(chain):
            if isinstance(module, nn.Conv2d):
                window = (window[0] + module.kernel_size[0] - 1, window[1] + module.kernel_size[1] - 1)
                if window[0] > shape[2] or window[1] > shape[3] or windows * window[0] * window[1] > SHARE * shape[2] * shape[3]:
                    break
                rectified = at + 1 < len(chain) and isinstance(chain[at + 1][0], nn.ReLU)
                layers.append(Layer(module, rectified, window))
            modules.append(module)
        head = cls(modules, layers)
        return head if layers and head._agrees(model, x) else None

    def _agrees(self, model: nn.Module, x: Tensor) -> bool:
        with torch.enable_grad():
            leaf = x.detach().clone().requires_grad_()
            logits = model(leaf)
            mixed = torch.linspace(-1, 1, logits[0].numel(), dtype=logits.dtype, device=logits.device)
            (gradient,) = torch.autograd.grad((logits * mixed).sum(), leaf)
            self.fill(x)
            cut = self.cut()
            try:
                again = self.rest(model, torch.full_like(x, torch.nan), cut)
                (above,) = torch.autograd.grad((again * mixed).sum(), cut, allow_unused=True)
            except Exception:  # whatever a network says that looks at the images once more, or changes the head's output in place
                return False
        pairs = [(logits, again)] + ([] if above is None else [(gradient, self.back(above))])
        return len(pairs) == 2 and all(bool(((one - other).abs() <= TOLERANCE * one.abs().max()).all()) for one, other in pairs)

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
        """The head's output (B, C, H, W) as a leaf that requires a gradient."""
        return self.layers[-1].kept.permute(0, 3, 1, 2).detach().requires_grad_()

    def rest(self, model: nn.Module, x: Tensor, cut: Tensor) -> Tensor:
        """The network's logits from the head's output ``cut``."""
        with ExitStack() as stack:
            for module in self.modules[:-1]:
                stack.enter_context(_instead(module, lambda below: below))
            stack.enter_context(_instead(self.modules[-1], lambda below: cut))
            return model(x)

    def back(self, gradient: Tensor) -> Tensor:
        """The gradient in the images (B, C, H, W) from the one in the head's output."""
        gradient = _last(gradient)
        inputs = [self.images, *(layer.kept for layer in self.layers[:-1])]
        for layer, below in zip(reversed(self.layers), reversed(inputs), strict=True):
            gradient = layer.backward(gradient, below)
        return gradient.permute(0, 3, 1, 2)


def _last(x: Tensor) -> Tensor:
    """(B, C, H, W) to (B, H, W, C), contiguous."""
    return x.permute(0, 2, 3, 1).contiguous()


def _chain(model: nn.Module, x: Tensor) -> list[tuple[nn.Module, torch.Size]]:
    """The modules that the images go through one after the other, as far as they are of the kinds known here, and their outputs' shapes."""
    calls: list[tuple[nn.Module, tuple, Tensor]] = []
    hooks = [
        module.register_forward_hook(lambda module, inputs, output: calls.append((module, inputs, output)))
        for module in model.modules()
        if type(module) in (nn.Conv2d, nn.ReLU)
    ]
    try:
        with torch.no_grad():
            model(x)
    finally:
        for hook in hooks:
            hook.remove()
    chain: list[tuple[nn.Module, torch.Size]] = []
    below = x
    for module, inputs, output in calls:
        once = sum(other is module for other, _, _ in calls) == 1
        if not once or len(inputs) != 1 or inputs[0] is not below or not _known(module, convolved=bool(chain)):
            break
        chain.append((module, output.shape))
        below = output
    return chain


def _known(module: nn.Module, convolved: bool) -> bool:
    if isinstance(module, nn.Conv2d):
        plain = module.stride == (1, 1) and module.dilation == (1, 1) and module.groups == 1
        return plain and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return convolved


@contextmanager
def _instead(module: nn.Module, function: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """The module computes something else."""
    vars(module)["forward"] = function
    try:
        yield
    finally:
        del vars(module)["forward"]


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
        found = found * inside.flatten()[:, None]
    return found.view(-1, height, width, images.shape[3])
