"""Published attacks behind one call: success is judged by us, on the network itself.

Every attack gets logits divided by ``temperature`` (Carlini & Wagner 2017, section VIII: against a student
distilled at T, attack softmax(Z/T)). Which attacks need that, because they differentiate a cross-entropy that
underflows, and which do not, because they compare logits, is said in `ATTACKS`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from distill import models
from distill.attacks.adapters import ATTACKS, LIBRARIES, Attack, Divided, Task, carlini_wagner_l2, won
from distill.attacks.jsma import _cast, _check_classes, _frozen, _number
from distill.training import check_seed

__all__ = ["ATTACKS", "LIBRARIES", "Attack", "AttackResult", "Pixels", "attack"]


@dataclass(frozen=True)
class AttackResult:
    """What became of N attacks, in the order they were given.

    Attributes
    ----------
    adversarial : Tensor
        float32 (N, C, H, W). Where ``success`` is False it is whatever the attack left, often the image itself.
    success : Tensor
        bool (N,): the model, in float32, gives ``adversarial`` another class than its label, or its target's. An
        image that had it from the start is returned as it was, a success at distance 0.
    features, pixels : Tensor
        int64 (N,), L0: features that differ at all, and pixels with a feature that does.
    l1, l2, linf : Tensor
        float32 (N,).
    passes : float
        Forward passes of an attacked image, on average; those of a surrogate are not counted.
    """

    adversarial: Tensor
    success: Tensor
    features: Tensor
    pixels: Tensor
    l1: Tensor
    l2: Tensor
    linf: Tensor
    passes: float


class Pixels(nn.Module):
    """A network of standardised images, seen as one of images in [0, 1], on which scale distances are measured.

    Parameters
    ----------
    model : nn.Module
        Maps ``(pixels - mean) / deviation`` to logits.
    mean, deviation : Tensor
        Of shape (C, H, W) or one that broadcasts to it; see `distill.data.standardisation`.

    Raises
    ------
    ValueError
        If a deviation is not above 0.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: nn.Module, mean: Tensor, deviation: Tensor) -> None:
        super().__init__()
        if not bool((deviation > 0).all()):
            raise ValueError("a deviation is 0 or below; allowed are numbers above 0")
        self.model = model
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def forward(self, x: Tensor) -> Tensor:
        return self.model((x - self.mean) / self.deviation)

    def images(self, x: Tensor) -> Tensor:
        """Standardised images back in [0, 1]."""
        return (x * self.deviation + self.mean).clamp(0, 1)


def attack(
    name: str,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    targets: Tensor | None = None,
    temperature: float = 1.0,
    seed: int = 0,
    steps: int | None = None,
    batch_size: int = 100,
    **options: Any,
) -> AttackResult:
    """Attack each image by one of `ATTACKS`.

    Parameters
    ----------
    name : str
        A key of `ATTACKS`.
    model : nn.Module
        Maps (N, C, H, W) to logits (N, classes). It is run in float32 and in evaluation mode, its weights frozen,
        and left as it was.
    images : Tensor
        Floating point (N, C, H, W) in [0, 1] (for a network of standardised images see `Pixels`); "random" with a
        number of features takes any finite images.
    labels : Tensor
        int64 (N,), the true classes.
    targets : Tensor, optional
        int64 (N,), the class each image is to become; without it any class but the label will do.
    temperature : float
        The attack sees the logits divided by it.
    seed : int
        Of torch's generator during the attack, from 0 to 2**32 - 1.
    steps : int, optional
        Iterations, queries for "square", draws for "random"; not used by "fgsm" and "fgsm_dl", which take one step. Without it,
        the attack's own number in `ATTACKS`.
    batch_size : int
        Images attacked together.
    **options
        The attack's own; see the functions in `ATTACKS`.

    Raises
    ------
    ValueError
        If an argument is not allowed, an option is unknown or missing, or the model returns no finite logits.
    ImportError
        If the library that the attack comes from is not installed.
    """
    _check(name, model, images, labels, targets, temperature, steps, batch_size, options, seed)
    weight = next(iter(model.parameters()), images)
    with _frozen(model), torch.random.fork_rng(devices=[weight.device] if weight.is_cuda else []):
        judge = _cast(model, torch.float32).eval()
        x, goal = images.detach().to(weight.device, torch.float32), (labels if targets is None else targets).to(weight.device)
        classes = models.trial(judge, x[:8]).shape[1]
        for what, given in (("labels", labels), ("targets", targets)):
            if given is not None:
                _check_classes(what, given, classes)
        torch.manual_seed(seed)
        done = won(judge, x, goal, targets is not None, batch_size)
        net = Divided(judge, temperature)
        adversarial = x.clone()
        open_ = (~done).nonzero()[:, 0]
        for rows in open_.split(batch_size) if len(open_) else ():
            task = Task(net, x[rows], goal[rows], targets is not None, steps or ATTACKS[name].steps, x, seed)
            adversarial[rows] = ATTACKS[name].run(task, **options).detach()
        success = won(judge, adversarial, goal, targets is not None, batch_size)
    moved = (adversarial - x).flatten(1)
    home = images.device
    return AttackResult(
        adversarial=adversarial.to(home),
        success=success.to(home),
        features=(moved != 0).sum(1).to(home),
        pixels=(moved.view_as(x) != 0).any(1).flatten(1).sum(1).to(home),
        l1=moved.abs().sum(1).to(home),
        l2=moved.norm(dim=1).to(home),
        linf=moved.abs().amax(1).to(home),
        passes=net.seen / max(1, len(open_)),
    )


def _positive(given: object) -> bool:
    return _number(given) and given > 0  # type: ignore[operator]


def _from_zero(given: object) -> bool:
    return _number(given) and given >= 0  # type: ignore[operator]


def _whole(given: object) -> bool:
    return isinstance(given, int | np.integer) and not isinstance(given, bool) and bool(given > 0)


def _confidences(given: object) -> bool:
    return isinstance(given, Sequence) and len(given) > 0 and all(map(_from_zero, given))


OPTIONS: dict[str, tuple[Callable[[object], bool], str]] = {  # what else would switch an attack off without a word
    "radius": (_positive, "a finite number above 0"),
    "value": (_number, "a finite number"),
    "random_start": (lambda given: isinstance(given, bool), "True or False"),
    "relative_step_size": (_positive, "a finite number above 0"),
    "loss": (lambda given: given in ("ce", "dl"), "ce or dl"),
    "restarts": (_whole, "an integer above 0"),
    "confidence": (_from_zero, "a finite number from 0"),
    "confidences": (_confidences, "a sequence of finite numbers from 0, at least one"),
    "learning_rate": (_positive, "a finite number above 0"),
    "binary_search_steps": (_whole, "an integer above 0"),
    "initial_const": (_positive, "a finite number above 0"),
    "step_size": (_positive, "a finite number above 0"),
    "gradient_queries": (_whole, "an integer above 0"),
}


def _check(name, model, images, labels, targets, temperature, steps, batch_size, options, seed) -> None:
    if name not in ATTACKS:
        raise ValueError(f"unknown attack {name!r}; allowed are {', '.join(ATTACKS)}")
    for what, given in (("model", model), ("surrogate", options.get("surrogate", model))):
        if not isinstance(given, nn.Module):
            raise ValueError(f"{what} is {type(given).__name__}; allowed is a torch.nn.Module that returns logits")
    known = _options(ATTACKS[name].run)
    if name == "transfer":
        known = {option: needed for option, needed in (_options(carlini_wagner_l2) | known).items() if option != "confidence"}
    for option in options:
        if option not in known:
            raise ValueError(f"{name} has no option {option!r}; allowed are {', '.join(known) or 'none'}")
    for option, needed in known.items():
        if needed and option not in options:
            raise ValueError(f"{name} needs the option {option!r}")
    left_out = ("radius", "value") if name == "random" else ()  # of its two ways it takes one, see the end
    for option, given in options.items():
        rule, allowed = OPTIONS.get(option, (lambda _: True, ""))  # the others are checked with the images
        if not (given is None and option in left_out) and not rule(given):
            raise ValueError(f"{option} is {given!r}; allowed is {allowed}")
    check_seed(seed)
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim != 4 or not len(images):
        raise ValueError("images must be a floating-point tensor of shape (N, C, H, W), N above 0")
    for what, given in (("labels", labels), ("targets", targets)):
        if given is not None and (not isinstance(given, Tensor) or given.dtype != torch.int64 or given.shape != images.shape[:1]):
            raise ValueError(f"{what} must be an int64 tensor of shape ({len(images)},), one class an image")
    if not bool(images.isfinite().all()):
        raise ValueError("images hold values that are not finite")
    if options.get("max_features") is not None:
        _check_budget(options["max_features"], images)
    elif images.min() < 0 or images.max() > 1:
        raise ValueError("images must lie in [0, 1]; a network of standardised images is attacked through others.Pixels")
    if not _number(temperature) or temperature <= 0:
        raise ValueError(f"temperature is {temperature!r}; allowed is a finite number above 0")
    for what, number in (("steps", steps), ("batch_size", batch_size)):
        if (what, number) != ("steps", None) and (isinstance(number, bool) or not isinstance(number, int) or number < 1):
            raise ValueError(f"{what} is {number!r}; allowed is an integer above 0")
    if name in ("carlini_wagner_l2", "transfer") and steps is not None and steps < 10:  # it looks at every tenth
        raise ValueError(f"steps is {steps}; allowed for {name} is an integer from 10")
    if name == "sigma_zero" and targets is not None:
        raise ValueError("sigma_zero takes no targets; allowed is targets=None")
    if name == "random":
        radius, features, value = (options.get(option) is None for option in ("radius", "max_features", "value"))
        if radius == features or features != value:
            raise ValueError("random takes either radius, or max_features and value")


def _check_budget(max_features: int, images: Tensor) -> None:
    """Raise ``ValueError`` unless so many features of an image may be changed."""
    number = isinstance(max_features, int | np.integer) and not isinstance(max_features, bool)
    if not number or not 1 <= max_features <= images[0].numel():
        raise ValueError(f"max_features is {max_features!r}; allowed is an integer from 1 to {images[0].numel()}")


def _options(run: Callable[..., Tensor]) -> dict[str, bool]:
    """An attack's own options, and whether each must be given."""
    parameters = inspect.signature(run).parameters.values()
    return {option.name: option.default is option.empty for option in parameters if option.kind is option.KEYWORD_ONLY}
