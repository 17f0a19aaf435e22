"""Thin adapters to published attacks: each takes a `Task` and its own options, and returns images.

The libraries are imported when an attack first needs them; none is a requirement of the package.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

from distill.attacks.jsma import _cast, _frozen

LIBRARIES = {  # module: what to install, without its own requirements
    "adv_lib": "adv-lib==0.2.8",
    "torchattacks": "torchattacks==3.5.1",
    "foolbox": "foolbox==3.3.4 eagerpy==0.30.0",
}
# What they import for plots and downloads that we never ask for, and the names they take from it.
UNUSED: dict[str, dict[str, tuple[str, ...]]] = {"adv_lib": {"visdom": ()}, "foolbox": {"git": ("Repo",)}}


class Task(NamedTuple):
    """A batch as an attack gets it."""

    net: Divided  # the logits, divided by the temperature
    x: Tensor  # images that are not adversarial yet
    goal: Tensor  # the labels to leave, or the targets to reach
    targeted: bool
    steps: int
    pool: Tensor  # all images given, where starting points come from
    seed: int


def fgsm(task: Task, *, radius: float) -> Tensor:
    """Fast gradient sign method (Goodfellow et al. 2015, arXiv 1412.6572): one step of the whole Linf radius, by adv-lib."""
    return pgd(task._replace(steps=1), radius=radius, random_start=False, relative_step_size=1.0)


def fgsm_dl(task: Task, *, radius: float) -> Tensor:
    """`fgsm` on the difference of the label's logit and the largest other one, which no softmax can round away, by adv-lib."""
    return pgd(task._replace(steps=1), radius=radius, random_start=False, relative_step_size=1.0, loss="dl")


def pgd(task: Task, *, radius: float, random_start: bool = True, relative_step_size: float = 0.1, loss: str = "ce") -> Tensor:
    """Projected gradient descent in an Linf ball (Madry et al. 2018, arXiv 1706.06083), by adv-lib.

    ``loss`` is the cross-entropy ("ce"), or the difference of the label's logit and the largest other one ("dl").
    """
    return _library("adv_lib", "adv_lib.attacks").pgd_linf(
        task.net, task.x, task.goal, float(radius), targeted=task.targeted, random_init=random_start, loss_function=loss,
        relative_step_size=relative_step_size, steps=task.steps + 1,  # it does not look at the image after the last step
    )  # fmt: skip


def pgd_dl(task: Task, *, radius: float) -> Tensor:
    """`pgd` on the difference of the label's logit and the largest other one, by adv-lib."""
    return pgd(task, radius=radius, loss="dl")


def apgd_ce(task: Task, *, radius: float, restarts: int = 1) -> Tensor:
    """Auto-PGD on the cross-entropy in an Linf ball (Croce & Hein 2020, arXiv 2003.01690), by adv-lib."""
    return _apgd(task, radius, restarts, "ce")


def apgd_dlr(task: Task, *, radius: float, restarts: int = 1) -> Tensor:
    """Auto-PGD on the difference-of-logits ratio, which no scale changes (Croce & Hein 2020, arXiv 2003.01690), by adv-lib."""
    classes, needed = task.net(task.x[:1]).shape[1], 4 if task.targeted else 3
    if classes < needed:
        raise ValueError(f"apgd_dlr compares {needed} logits and the model has {classes}; allowed are models of {needed} classes or more")
    return _apgd(task, radius, restarts, "dlr")


def _apgd(task: Task, radius: float, restarts: int, loss: str) -> Tensor:
    return _library("adv_lib", "adv_lib.attacks").apgd(
        task.net, task.x, task.goal, eps=float(radius), norm=math.inf, targeted=task.targeted,
        n_iter=task.steps, n_restarts=restarts, loss_function=loss,
    )  # fmt: skip


def carlini_wagner_l2(
    task: Task, *, confidence: float = 0.0, learning_rate: float = 0.05, binary_search_steps: int = 4, initial_const: float = 0.3
) -> Tensor:
    """Carlini & Wagner's L2 attack (arXiv 1608.04644, section VI), by adv-lib; ``steps`` for each step of the binary search.

    It compares logits and does not underflow; ``confidence`` and ``initial_const`` are in units of the divided logits.
    """
    return _library("adv_lib", "adv_lib.attacks").carlini_wagner_l2(
        task.net, task.x, task.goal, targeted=task.targeted, confidence=float(confidence), learning_rate=learning_rate,
        initial_const=float(initial_const), binary_search_steps=binary_search_steps, max_iterations=task.steps,
    )  # fmt: skip


def ddn(task: Task) -> Tensor:
    """Decoupled direction and norm, L2 (Rony et al. 2019, arXiv 1811.09600), by adv-lib, not rounded to 256 levels."""
    return _library("adv_lib", "adv_lib.attacks").ddn(task.net, task.x, task.goal, targeted=task.targeted, steps=task.steps, levels=None)


def _fmn(norm: float, step_size: float) -> Callable[..., Tensor]:
    def fmn(task: Task, *, step_size: float = step_size) -> Tensor:
        library = _library("adv_lib", "adv_lib.attacks.fast_minimum_norm")
        kept = {"norm": norm, "targeted": task.targeted, "steps": task.steps, "α_init": step_size}
        project = library.l0_projection_  # it keeps one feature where 0 are allowed, but fails where that is so in every image
        with mock.patch.object(library, "l0_projection_", lambda δ, ε: project(δ, ε.clamp(min=1))):
            found = library.fmn(task.net, task.x, task.goal, **kept)
            start, there = _starting_points(task)
            again = (there & ~won(task.net, found, task.goal, task.targeted, len(found))).nonzero()[:, 0]
            if len(again):  # its paper's other way to begin, from an image of another class
                found[again] = library.fmn(task.net, task.x[again], task.goal[again], starting_points=start[again], **kept)
        return found

    fmn.__doc__ = f"Fast minimum norm, L{norm:g} (Pintor et al. 2021, arXiv 2102.12827), by adv-lib."
    return fmn


def sigma_zero(task: Task) -> Tensor:
    """Sigma-zero, L0, untargeted only (Cinà et al. 2025, arXiv 2402.01879), by adv-lib."""
    return _library("adv_lib", "adv_lib.attacks").sigma_zero(task.net, task.x, task.goal, num_steps=task.steps)


def hop_skip_jump(task: Task, *, gradient_queries: int = 50) -> Tensor:
    """HopSkipJump, L2, which sees classes only (Chen et al. 2020, arXiv 1904.02144), by foolbox.

    Step k estimates a direction from ``gradient_queries * sqrt(k)`` queries. It starts from the nearest of the images
    given that has the class wanted; where there is none it fails.
    """
    return _from_starting_points(
        task, lambda foolbox: foolbox.attacks.HopSkipJumpAttack(steps=task.steps, initial_gradient_eval_steps=gradient_queries)
    )


def square(task: Task, *, radius: float, restarts: int = 1) -> Tensor:
    """Square attack, Linf, which sees logits but no gradient (Andriushchenko et al. 2020, arXiv 1912.00049), by torchattacks."""
    run = _library("torchattacks", "torchattacks").Square(
        task.net, norm="Linf", eps=float(radius), n_queries=task.steps, n_restarts=restarts, loss="margin", seed=task.seed
    )
    run.set_device(task.x.device)
    if task.targeted:
        run.set_mode_targeted_by_label(quiet=True)
    return run(task.x, task.goal)


def transfer(task: Task, *, surrogate: nn.Module, confidences: Sequence[float] = (0, 10, 20, 40), **options: Any) -> Tensor:
    """Images crafted on another network by `carlini_wagner_l2`, which see nothing of this one (arXiv 1608.04644, section VIII-D).

    Of the confidences, rising, the first that this network falls for is kept. ``options`` are that attack's. The
    temperature divides nothing here, and confidences are in units of the surrogate's logits.
    """
    found, open_ = task.x.clone(), torch.arange(len(task.x), device=task.x.device)
    with _frozen(surrogate):
        net = Divided(_cast(surrogate, torch.float32).eval(), 1.0)
        for confidence in sorted(confidences):
            part = task._replace(net=net, x=task.x[open_], goal=task.goal[open_])
            found[open_] = carlini_wagner_l2(part, confidence=confidence, **options)
            open_ = open_[~won(task.net, found[open_], part.goal, task.targeted, len(task.x))]
            if not len(open_):
                break
    return found


def random(task: Task, *, radius: float | None = None, max_features: int | None = None, value: float | None = None) -> Tensor:
    """The control: random changes of the size of an attack's, of ``steps`` draws the first that succeeds.

    Either ``radius``: every feature moves by it, up or down, within [0, 1]. Or ``max_features`` and ``value``: so
    many features drawn among those below the value are set to it, as the JSMA does.
    """
    found, open_ = task.x.clone(), torch.arange(len(task.x), device=task.x.device)
    for _ in range(task.steps):
        x = task.x[open_]
        if radius is not None:
            moved = (x + radius * torch.empty_like(x).bernoulli_(0.5).mul_(2).sub_(1)).clamp(0, 1)
        else:
            assert max_features is not None and value is not None
            order = torch.where(x < value, torch.rand_like(x), -1.0).flatten(1)
            chosen = torch.zeros_like(order, dtype=torch.bool).scatter_(1, order.topk(max_features, 1).indices, True)
            moved = torch.where(chosen.view_as(x) & (x < value), value, x)
        found[open_] = moved
        open_ = open_[~won(task.net, moved, task.goal[open_], task.targeted, len(task.x))]
        if not len(open_):
            break
    return found


class Attack(NamedTuple):
    """One row of the table."""

    run: Callable[..., Tensor]
    steps: int  # unless told otherwise
    norm: str  # that it minimises, or bounds by ``radius``
    library: str
    scale_free: bool  # whether it compares logits, so that no scale of theirs makes its gradient vanish


ATTACKS = {
    "fgsm": Attack(fgsm, 1, "linf", "adv-lib", False),
    "pgd": Attack(pgd, 100, "linf", "adv-lib", False),
    "fgsm_dl": Attack(fgsm_dl, 1, "linf", "adv-lib", True),
    "pgd_dl": Attack(pgd_dl, 100, "linf", "adv-lib", True),
    "apgd_ce": Attack(apgd_ce, 100, "linf", "adv-lib", False),
    "apgd_dlr": Attack(apgd_dlr, 100, "linf", "adv-lib", True),
    "carlini_wagner_l2": Attack(carlini_wagner_l2, 200, "l2", "adv-lib", True),
    "ddn": Attack(ddn, 200, "l2", "adv-lib", False),
    "fmn_l0": Attack(_fmn(0, 3.0), 200, "l0", "adv-lib", True),
    "fmn_l1": Attack(_fmn(1, 1.0), 200, "l1", "adv-lib", True),
    "fmn_l2": Attack(_fmn(2, 3.0), 200, "l2", "adv-lib", True),
    "fmn_linf": Attack(_fmn(math.inf, 3.0), 200, "linf", "adv-lib", True),
    "sigma_zero": Attack(sigma_zero, 500, "l0", "adv-lib", True),
    "square": Attack(square, 3000, "linf", "torchattacks", True),
    "hop_skip_jump": Attack(hop_skip_jump, 20, "l2", "foolbox", True),
    "transfer": Attack(transfer, 100, "l2", "adv-lib", True),
    "random": Attack(random, 1, "linf", "", True),
}


# --- common to them ---------------------------------------------------------------------------------------


class Divided(nn.Module):
    """Logits divided by a temperature, with a count of the images seen."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature, self.seen = model, temperature, 0
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        return self.model(x) / self.temperature


@torch.no_grad()
def won(net: nn.Module, x: Tensor, goal: Tensor, targeted: bool, size: int) -> Tensor:
    """Which images have their target's class, or another than their label's."""
    logits = [net(part) for part in x.split(max(1, size))]
    if not all(bool(part.isfinite().all()) and part.ndim == 2 for part in logits):
        raise ValueError("the model must map (N, C, H, W) to finite logits of shape (N, classes)")
    classes = torch.cat([part.argmax(1) for part in logits])
    return (classes == goal) == targeted


def _starting_points(task: Task) -> tuple[Tensor, Tensor]:
    """For each image the nearest (L2) of all images given that has a class wanted, and whether there is one."""
    with torch.no_grad():
        classes = torch.cat([task.net(part).argmax(1) for part in task.pool.split(len(task.x))])
    wanted = (classes[None] == task.goal[:, None]) == task.targeted
    distance = torch.cdist(task.x.flatten(1), task.pool.flatten(1)).masked_fill(~wanted, math.inf)
    return task.pool[distance.argmin(1)], wanted.any(1)


def _from_starting_points(task: Task, make: Callable[[ModuleType], Any]) -> Tensor:
    """Run one of foolbox's attacks that start from adversarial images; images without one stay as they are."""
    foolbox = _library("foolbox", "foolbox")
    wrap = importlib.import_module("eagerpy").astensor
    start, there = _starting_points(task)
    found = task.x.clone()
    if bool(there.any()):
        rule = foolbox.criteria.TargetedMisclassification if task.targeted else foolbox.criteria.Misclassification
        net = foolbox.PyTorchModel(task.net, bounds=(0, 1), device=task.x.device)
        found[there] = make(foolbox).run(net, task.x[there], rule(task.goal[there]), starting_points=wrap(start[there]))
    return found


def _library(package: str, module: str) -> ModuleType:
    try:
        with _lent(UNUSED.get(package, {})):
            return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"this attack needs {package} ({error}): pip install --no-deps {LIBRARIES[package]}") from None


@contextlib.contextmanager
def _lent(modules: dict[str, tuple[str, ...]]) -> Iterator[None]:
    """Empty modules, while a library is imported, for those it names at its head but does not need for an attack.

    Plots and downloads cost adv-lib and foolbox eight more packages, one of which does not build any more (visdom).
    """
    missing = [name for name in modules if name not in sys.modules and importlib.util.find_spec(name) is None]
    try:
        for name in missing:
            sys.modules[name] = ModuleType(name)
            vars(sys.modules[name]).update(dict.fromkeys(modules[name]))
        yield
    finally:
        for name in missing:
            del sys.modules[name]
