"""How strongly softmax outputs react to features (section IV-C, Figure 9): exactly, and as floating point rounds it.

With F = softmax(Y), Y = Z / T, the Jacobian is dF_j/dX = F_j * sum_k F_k (dY_j/dX - dY_k/dX) (equation 9). On a
distilled network F_j, or 1 - F_j for the top class, lies far below the smallest float64. Here each sum is kept
as a float64 times a power of e that is never evaluated, so only its logarithm has to be a float64.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill import models
from distill.training import check_temperature

STATISTICS = ("mean", "max")
DTYPES = (torch.float32, torch.float64)


class Amplitude(NamedTuple):
    """What ordinary floating point makes of N images' gradients."""

    amplitude: Tensor  # float64 (N,), the mean over classes and features of abs(dF_j/dX_i)
    zero_share: Tensor  # float64 (N,), the share of the dF_j/dX_i that are exactly zero


def log10_gradients(model: nn.Module, images: Tensor, *, temperature: float = 1.0, batch_size: int = 8) -> Tensor:
    """log10 abs(dF_j/dX_i) of every class and feature, without underflow.

    Parameters
    ----------
    model : nn.Module
        Maps (N, ...) to logits (N, classes). A float64 copy in evaluation mode is used; the model stays as it is.
    images : Tensor
        Floating point (N, ...), finite. Computation is on the model's device.
    temperature : float
        The logits are divided by it before the softmax.
    batch_size : int
        Images at a time; 8 is about the fastest on a CPU.

    Returns
    -------
    Tensor
        float64 (N, classes, features), on the images' device; minus infinity where the derivative is exactly zero.

    Raises
    ------
    ValueError
        If an argument is out of range, an image or a logit is not finite, or the model returns probabilities.

    Notes
    -----
    Logits and their derivatives are autograd's in float64; the softmax adds a few roundings to them, of the size
    of the largest term of the sum over k. A CIFAR10 image gives 245 kB: for many, call this on ``images.split(...)``
    and add up ``torch.histogram(part, edges).hist``, which leaves out minus infinity.
    """

    def measure(scaled: Tensor, x: Tensor) -> Tensor:
        return log_jacobian(scaled.detach(), _jacobian(scaled, x)) / math.log(10)

    return _measure(measure, model, images, torch.float64, temperature, batch_size)


def log10_amplitude(
    model: nn.Module, images: Tensor, *, temperature: float = 1.0, statistic: str = "mean", batch_size: int = 8
) -> Tensor:  # fmt: skip
    """log10 of an image's gradient amplitude, without underflow: the mean of abs(dF_j/dX_i) over classes and features.

    The paper's "mean adversarial gradient amplitude" (Figure 9) is not defined further; this is our reading.

    Parameters
    ----------
    model, images, temperature, batch_size
        See `log10_gradients`.
    statistic : {"mean", "max"}
        "max" takes the largest instead of the mean.

    Returns
    -------
    Tensor
        float64 (N,), on the images' device; minus infinity where every derivative is exactly zero.

    Raises
    ------
    ValueError
        As `log10_gradients`, and if the statistic is unknown.
    """
    if statistic not in STATISTICS:
        raise ValueError(f"statistic is {statistic!r}; allowed are {', '.join(STATISTICS)}")

    def measure(scaled: Tensor, x: Tensor) -> Tensor:
        logs = log_jacobian(scaled.detach(), _jacobian(scaled, x)).flatten(1)
        total = logs.amax(1) if statistic == "max" else logs.logsumexp(1) - math.log(logs.shape[1])
        return total / math.log(10)

    return _measure(measure, model, images, torch.float64, temperature, batch_size)


def amplitude(
    model: nn.Module, images: Tensor, *, dtype: torch.dtype, flush: bool = False, temperature: float = 1.0, batch_size: int = 8
) -> Amplitude:  # fmt: skip
    """The same mean as ordinary autograd gives it: softmax and derivatives in ``dtype``, underflow and all.

    Parameters
    ----------
    model, images, temperature, batch_size
        See `log10_gradients`.
    dtype : {torch.float32, torch.float64}
        Of weights, images, softmax and derivatives. Their absolute values are averaged in float64, so what is
        lost was lost in the derivatives.
    flush : bool
        Have the processor turn denormal numbers into zeros, as GPUs and fast-math builds do; on one thread.
        Without it they are kept, whatever `torch.set_flush_denormal` said before.

    Returns
    -------
    Amplitude

    Raises
    ------
    ValueError
        As `log10_gradients`, and if the type is another one, or flushing is not to be had.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype is {dtype!r}; allowed are {', '.join(map(str, DTYPES))}")
    if flush and _device(model, images).type != "cpu":
        raise ValueError(f"flush is a switch of the CPU; the model is on {_device(model, images)}")

    def measure(scaled: Tensor, x: Tensor) -> Tensor:
        gradients = _jacobian(F.softmax(scaled, 1), x).flatten(1)
        return torch.stack([gradients.abs().mean(1, dtype=torch.float64), (gradients == 0).mean(1, dtype=torch.float64)], 1)

    with denormals(flush):
        return Amplitude(*_measure(measure, model, images, dtype, temperature, batch_size).unbind(1))


def log_jacobian(scaled: Tensor, jacobian: Tensor) -> Tensor:
    """log abs(dF_j/dX_i), F = softmax(Y), from Y and its Jacobian.

    Parameters
    ----------
    scaled : Tensor
        float64 (N, classes), Y: the logits over the temperature.
    jacobian : Tensor
        float64 (N, classes, features), dY_j/dX_i.

    Returns
    -------
    Tensor
        float64 (N, classes, features), natural logarithms; minus infinity for an exact zero.
    """
    shifted = scaled - scaled.amax(1, keepdim=True)
    total, scale = torch.zeros_like(jacobian), torch.zeros_like(jacobian)  # the sum over k is total * exp(scale)
    rows = torch.arange(len(scaled), device=scaled.device)
    for k in shifted.argsort(1, descending=True).unbind(1):
        weight = shifted[rows, k][:, None, None]
        # As long as terms are zero (k = j, equal derivatives) or have cancelled exactly (tied logits), the next,
        # however small, sets the scale. Scales fall, so no exponential overflows, and none that matters underflows.
        scale = torch.where(total == 0, weight, scale)
        total += (jacobian - jacobian[rows, k][:, None]) * (weight - scale).exp()
    normaliser = shifted.logsumexp(1)[:, None, None]
    return total.abs().log() + (scale - normaliser) + (shifted[:, :, None] - normaliser)


def _jacobian(outputs: Tensor, x: Tensor) -> Tensor:
    """Derivatives (N, classes, features); one backward pass a class: `is_grads_batched` gained at most a tenth on a CPU."""
    gradients = [torch.autograd.grad(column.sum(), x, retain_graph=True)[0] for column in outputs.unbind(1)]
    return torch.stack(gradients, 1).flatten(2)


@torch.enable_grad()
def _measure(
    measure: Callable[[Tensor, Tensor], Tensor], model: nn.Module, images: Tensor, dtype: torch.dtype, temperature: float, batch_size: int
) -> Tensor:  # fmt: skip
    """``measure(logits / temperature, images)`` of each batch, by a copy of the model in ``dtype``."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {type(model).__name__}; allowed is a torch.nn.Module that returns logits")
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim < 2:
        raise ValueError("images must be a floating-point tensor of shape (N, ...)")
    if not bool(images.isfinite().all()):
        raise ValueError("images hold values that are not finite")
    check_temperature(temperature)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; allowed is an integer above 0")
    copied, device = copy.deepcopy(model).to(dtype).eval().requires_grad_(False), _device(model, images)
    parts = []
    with torch.autocast(device.type, enabled=False):
        models.trial(copied, images[:8].detach().to(device, dtype))
        for part in images.detach().split(batch_size):
            x = part.to(device, dtype).requires_grad_()
            logits = copied(x)
            _check_logits(logits, x)
            scaled = logits / temperature
            if not bool(scaled.isfinite().all()):
                raise ValueError("the model's logits over the temperature are not finite for some images")
            parts.append(measure(scaled, x).to(images.device))
    return torch.cat(parts)


def _device(model: nn.Module, images: Tensor) -> torch.device:
    return next(iter(model.parameters()), images).device


def _check_logits(logits: Tensor, x: Tensor) -> None:
    if logits.dtype != x.dtype:
        raise ValueError(f"the model turns {x.dtype} into {logits.dtype}; allowed is a model that keeps its weights' type")
    if not logits.requires_grad:
        raise ValueError("the model's logits cannot be differentiated by its images")


@contextlib.contextmanager
def denormals(flush: bool) -> Iterator[None]:
    """Denormals flushed to zero or kept; afterwards as it was.

    Each thread has a switch of its own and torch sets the calling one's, so while it flushes there is one thread.
    """
    before, threads = bool(torch.tensor([5e-324], dtype=torch.float64) == 0), torch.get_num_threads()
    try:
        if flush:
            torch.set_num_threads(1)
        if not torch.set_flush_denormal(flush) and flush:
            raise ValueError("this CPU cannot flush denormals to zero; allowed is flush=False")
        yield
    finally:
        torch.set_flush_denormal(before)
        if flush:
            torch.set_num_threads(threads)
