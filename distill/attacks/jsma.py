"""Targeted JSMA (arXiv 1511.07528, Algorithms 2 and 3), batched, exact, and clear about why it stopped.

One step of an attack: a forward pass gives the class, a backward pass the gradient of the target's output,
a search the best pair of features, and both are set to ``value``. Attacks that are over leave the batch at
every step and waiting ones take their places, so the batch stays full. First convolutions are recomputed only
around the features that changed.
"""

from __future__ import annotations

import contextlib
import copy
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from distill import models
from distill.attacks.saliency import Pair, best_of_candidates, best_pair, best_single, candidates, top_two
from distill.attacks.stem import Stem

__all__ = ["JSMAResult", "Pair", "Status", "all_targets", "best_pair", "jsma"]

OUTPUTS = ("softmax", "log_softmax", "logits")
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.float32, "float64": torch.float64}  # of the weights
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # of images
DIRECTIONS = {"increase": 1, "decrease": -1}
MEMORY = 500e6  # bytes of activations that a batch of automatic size may take
LARGEST_BATCH = 256  # beyond it a CPU gains nothing


class Status(IntEnum):
    """Why an attack stopped.

    - ``SUCCESS`` (0): the target class was reached.
    - ``BUDGET`` (1): the next step would exceed ``max_features``.
    - ``NO_VALID_PAIR`` (2): there are gradients, but no usable features have alpha > 0 and beta < 0 (or, with ``product``,
      the product of the best of them underflows).
    - ``ZERO_GRADIENT`` (3): every usable feature's gradient is exactly zero, so there is nothing to rank.
    """

    SUCCESS = 0
    BUDGET = 1
    NO_VALID_PAIR = 2
    ZERO_GRADIENT = 3


@dataclass
class JSMAResult:
    """What became of N attacks, in the order they were given.

    Attributes
    ----------
    adversarial : Tensor
        (N, ...), the images at the end, those of failed attacks too.
    success : Tensor
        bool (N,): the model, in float32, gives ``adversarial`` the target class.
    features_changed, iterations, passes : Tensor
        int64 (N,): features set to ``value``; steps that set them; forward and backward passes of the image.
    status : Tensor
        int64 (N,), values of `Status`.
    trace : Tensor or None
        int64 (N, max_features): features in the order in which they were changed, then -1; only if asked for.
        The path of a smaller budget is the beginning of this one, so with float32 passes
        ``success & (features_changed <= b)`` is the success at any budget b up to ``max_features``.
    """

    adversarial: Tensor
    success: Tensor
    features_changed: Tensor
    iterations: Tensor
    status: Tensor
    passes: Tensor
    trace: Tensor | None = None


def jsma(
    model: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    max_features: int = 112,
    value: float = 1.0,
    direction: str = "increase",
    output: str = "softmax",
    temperature: float = 1.0,
    features_per_step: int = 2,
    product: bool = False,
    trace: bool = False,
    batch_size: int | None = None,
    precision: str = "float32",
    progress: bool = False,
) -> JSMAResult:
    """Attack each image towards its target by the Jacobian-based saliency map (arXiv 1511.07528, Algorithm 2).

    Parameters
    ----------
    model : nn.Module
        Maps (N, ...) to logits (N, classes). It is run in evaluation mode, its weights frozen, and left as it was.
    images : Tensor
        Floating point (N, ...), finite. Computation is on the model's device.
    targets : Tensor
        int64 (N,), the class each image is to become.
    max_features : int
        Budget: at most so many features (one channel of one pixel each) are changed.
    value : float
        What a chosen feature is set to: 1 for MNIST; 2 for the paper's standardised CIFAR10. It may lie outside
        the data's range. A feature that is there already, or beyond, is not usable.
    direction : {"increase", "decrease"}
        Whether ``value`` is above or below the features; "decrease" looks for features whose fall helps the target.
    output : {"softmax", "log_softmax", "logits"}
        What is differentiated. "softmax" is the paper's Jacobian; it underflows where the target's probability
        does. "log_softmax" ranks features in the same order in exact arithmetic (dF/dX = F dlogF/dX, F > 0)
        and does not underflow. "logits" is the JSMA paper's, with the general pair search.
    temperature : float
        The logits are divided by it before ``output`` is taken.
    features_per_step : {2, 1}
        2 is the paper's search over pairs; 1 takes the single feature with the largest saliency.
    product : bool
        Multiply -alpha * beta in the precision of the passes, as implementations do that compute the saliency as it
        is printed: where the product of the pair that ranks first underflows, the attack stops. Otherwise no pair is lost
        so. The ranking itself is exact either way, so products that are rounded to the same small number are told apart.
        Only for "softmax" and "log_softmax".
    trace : bool
        Also return the order in which features were changed.
    batch_size : int, optional
        Attacks in work at a time; without it, as many as fit into 500 MB of activations, at most 256.
    precision : {"float32", "bfloat16", "float64"}
        Of the passes that rank features. Success is always judged in float32.
    progress : bool
        Show a bar.

    Returns
    -------
    JSMAResult

    Raises
    ------
    ValueError
        If an argument is out of range, an image is not finite, the model returns probabilities, or derivatives are not finite.

    Notes
    -----
    An image that has its target class already succeeds with no feature changed, whatever its true class. Ties
    go to the lowest feature index. In the loop nothing leaves the device but the sizes of the next batch.

    If the network is an `nn.Sequential` that begins with convolutions of stride 1, or one of Table I, their outputs are
    kept and recomputed only where features changed, which moves results by no more than the order of floating-point sums
    does (`distill.attacks.stem`). All others are run whole, as all are with bfloat16.
    """
    _check(model, images, targets, max_features, value, direction, output, temperature, features_per_step, batch_size, precision)
    device = next(iter(model.parameters()), images).device
    for name, flag in (("product", product), ("trace", trace)):
        if not isinstance(flag, bool):
            raise ValueError(f"{name} is {flag!r}; allowed are True and False")
    if product and output == "logits":
        raise ValueError("product is True and output 'logits'; allowed with product are softmax, log_softmax")
    with _frozen(model), torch.autocast(device.type, enabled=False):
        ranker, judge = _cast(model, PRECISIONS[precision]), _cast(model, torch.float32)
        start = images.detach().to(device, next(iter(ranker.parameters()), images).dtype).contiguous()
        value = _rounded(value, images.dtype, start.dtype)  # so that what is returned holds what was attacked
        targets = targets.to(device)
        if len(start) == 0:
            none = torch.zeros(0, dtype=torch.int64, device=images.device)
            return JSMAResult(images.clone(), none.bool(), none, none, none, none, none.new_zeros(0, max_features) if trace else None)
        _check_classes("targets", targets, models.trial(judge, start[:8].float()).shape[1])
        rank = _Ranker(ranker, output, temperature, DIRECTIONS[direction], precision == "bfloat16")
        rule = _Rule(max_features, value, features_per_step, DIRECTIONS[direction], product)
        size = min(len(start), batch_size or automatic_batch_size(rank, start[:1].clone(), targets[:1].clone()))
        if precision != "bfloat16":
            rank.stem = Stem.find(ranker, start[:2], features_per_step)
        state = _State.new(start, max_features if trace else 0)
        todo, fresh = torch.arange(len(start), device=device), True
        with tqdm(total=len(start), desc="JSMA", unit="attack", disable=not progress, leave=False) as bar:
            while len(todo):
                _run_queue(rank, rule, state, todo, targets, size, fresh, bar)
                verdict = _verdict(judge, state.x[todo], targets[todo], size)
                state.verdicts[todo] += 1
                disputed = (state.status[todo] == Status.SUCCESS) & ~verdict
                state.status[todo[verdict]] = Status.SUCCESS
                # A class that only the ranking precision saw: go on from there, one step before looking again.
                todo, fresh = todo[disputed], False
    passes = state.loops * (1 + rank.backward_passes) + state.verdicts
    home = images.device
    moved = (state.x != start).to(home)  # what no attack touched is returned bit for bit, whatever the types
    return JSMAResult(
        adversarial=torch.where(moved, state.x.to(home, images.dtype), images.detach()),
        success=(state.status == Status.SUCCESS).to(home),
        features_changed=state.changed.to(home),
        iterations=(state.changed // features_per_step).to(home),
        status=state.status.to(home),
        passes=passes.to(home),
        trace=state.trace.to(home) if trace else None,
    )


def all_targets(predicted: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """All targets of each image: every class but the predicted one (Papernot et al. 2016, section V-B).

    For an untargeted attack, attack ``images[rows]`` towards ``targets`` and keep for each image the success
    with the fewest features changed.

    Parameters
    ----------
    predicted : Tensor
        int64 (N,), the model's class for each image.
    classes : int

    Returns
    -------
    rows, targets : Tensor
        int64 (N * (classes - 1),): the image's row and its target.

    Raises
    ------
    ValueError
        If ``predicted`` holds anything but classes, or there are fewer than two.
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise ValueError(f"classes is {classes!r}; allowed is an integer from 2")
    if not isinstance(predicted, Tensor) or predicted.dtype != torch.int64 or predicted.ndim != 1:
        raise ValueError("predicted must be an int64 tensor of shape (N,), one class an image")
    if len(predicted):
        _check_classes("predicted classes", predicted, classes)
    grid = torch.arange(classes, device=predicted.device).expand(len(predicted), -1)
    other = grid != predicted[:, None]
    rows = torch.arange(len(predicted), device=predicted.device)[:, None].expand_as(grid)
    return rows[other], grid[other]


# --- the loop --------------------------------------------------------------------------------------------


@dataclass
class _Ranker:
    """Logits and the derivatives that rank features, at one output, temperature and precision."""

    model: nn.Module
    output: str
    temperature: float
    sign: int
    bfloat16: bool
    stem: Stem | None = None  # kept between steps for the batch in work
    backward_passes: int = field(init=False)

    def __post_init__(self) -> None:
        self.backward_passes = 2 if self.output == "logits" else 1

    def __call__(self, x: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Class (B,), alpha and, for logits, beta, both (B, n), in the direction in which features move."""
        leaf = self.stem.cut() if self.stem else x.detach().requires_grad_()
        with torch.enable_grad():
            with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bfloat16):
                logits = self.stem.rest(leaf) if self.stem else self.model(leaf)
            logits = logits.to(x.dtype)
            scaled = logits / self.temperature
            out = {"softmax": F.softmax, "log_softmax": F.log_softmax}.get(self.output, lambda z, _: z)(scaled, 1)
            if not out.requires_grad:
                raise ValueError(
                    "the model's logits have no derivatives with respect to the images; allowed is a model that autograd follows"
                )
            chosen = out.gather(1, target[:, None]).sum()
            (alpha,) = torch.autograd.grad(chosen, leaf, retain_graph=self.output == "logits")
            every = torch.autograd.grad(out.sum(), leaf)[0] if self.output == "logits" else None
        if self.stem:
            alpha, every = self.stem.back(alpha), None if every is None else self.stem.back(every)
        beta = None if every is None else self.sign * (every - alpha).flatten(1)
        return logits.detach().argmax(1), self.sign * alpha.flatten(1), beta


@dataclass(frozen=True)
class _Rule:
    """What a step may do."""

    budget: int
    value: float
    per_step: int
    sign: int
    product: bool = False


@dataclass
class _State:
    """Every attack's image and counters, on the model's device."""

    x: Tensor
    trace: Tensor
    changed: Tensor
    status: Tensor
    loops: Tensor
    verdicts: Tensor

    @classmethod
    def new(cls, x: Tensor, traced: int) -> _State:
        zeros = [torch.zeros(len(x), dtype=torch.int64, device=x.device) for _ in range(4)]
        return cls(x.clone(), torch.full((len(x), traced), -1, device=x.device), *zeros)


class _Batch(NamedTuple):
    """The attacks in work; every tensor has one row for each."""

    job: Tensor  # index into the state
    x: Tensor
    target: Tensor
    changed: Tensor
    trace: Tensor
    loops: Tensor  # forward passes so far
    trusted: Tensor  # whether the ranking precision's verdict counts yet
    dead: Tensor  # status of an attack found stuck after the last sizes were read (pairs on logits only), else -1

    @classmethod
    def load(cls, state: _State, targets: Tensor, job: Tensor, fresh: bool) -> _Batch:
        zero = torch.zeros_like(job)
        return cls(job, state.x[job], targets[job], state.changed[job], state.trace[job], zero,
                   torch.full_like(job, fresh, dtype=torch.bool), zero - 1)  # fmt: skip


class _Decision(NamedTuple):
    """Which attacks are over and why, what the others change, and the sizes that the host needs to go on."""

    stop: Tensor
    status: Tensor
    usable: Tensor
    sizes: Tensor  # int64 (3,): attacks over, widest list of candidates, whether a derivative is not finite
    chosen: Tensor | None  # int64 (B, features a step)
    candidate: Tensor | None  # pairs on logits: the pair is found once the host knows how wide the lists are


def _run_queue(rank: _Ranker, rule: _Rule, state: _State, todo: Tensor, targets: Tensor, size: int, fresh: bool, bar: tqdm) -> None:
    """Run the attacks ``todo`` to their ends, ``size`` at a time, and write what became of them into ``state``."""
    batch, waiting = _Batch.load(state, targets, todo[:size], fresh), size
    if rank.stem:
        rank.stem.fill(batch.x)
    while len(batch.job):
        predicted, alpha, beta = rank(batch.x, batch.target)
        decision = _decide(rule, batch, predicted, alpha, beta)
        ended, most, broken = _read_sizes(decision.sizes)
        if broken:
            raise ValueError(
                f"derivatives of the model's {rank.output} at temperature {rank.temperature:g} are not finite for some images; "
                "allowed are a model and a temperature for which they are"
            )
        chosen, going, dead = decision.chosen, ~decision.stop, batch.dead
        if chosen is None:
            assert beta is not None and decision.candidate is not None
            pair = best_of_candidates(alpha, beta, decision.candidate, most)
            stuck = (pair.score <= 0) & going
            dead = torch.where(stuck, _stuck_status(alpha, beta, decision.usable), dead)
            chosen, going = torch.stack([pair.first, pair.second], 1), going & ~stuck
        batch = _step(rule, batch, chosen, going)._replace(dead=dead)
        if rank.stem:
            rank.stem.move(batch.x, chosen)
        if not ended:
            continue
        order = decision.stop.to(torch.int8).argsort(descending=True, stable=True)
        over = order[:ended]
        done = batch.job[over]
        state.x[done], state.changed[done], state.status[done] = batch.x[over], batch.changed[over], decision.status[over]
        state.trace[done] = batch.trace[over]
        state.loops[done] += batch.loops[over]
        bar.update(ended)
        taken = max(0, min(ended, len(todo) - waiting))  # waiting attacks take the places of those that are over
        if taken:
            new = _Batch.load(state, targets, todo[waiting : waiting + taken], fresh)
            batch = _Batch(*(old.index_copy(0, over[:taken], fill) for old, fill in zip(batch, new, strict=True)))
            waiting += taken
            if rank.stem:
                rank.stem.replace(over[:taken], new.x)
        if taken < ended:  # nothing waits: the batch shrinks
            keep = torch.cat([order[ended:], over[:taken]])
            batch = _Batch(*(old[keep] for old in batch))
            if rank.stem:
                rank.stem.keep(keep)


def _decide(rule: _Rule, batch: _Batch, predicted: Tensor, alpha: Tensor, beta: Tensor | None) -> _Decision:
    x = batch.x
    usable = (x < rule.value).flatten(1) if rule.sign > 0 else (x > rule.value).flatten(1)
    reached = (predicted == batch.target) & batch.trusted
    spent = batch.changed + rule.per_step > rule.budget
    chosen, candidate = None, None
    most = torch.zeros((), dtype=torch.int64, device=x.device)
    if beta is not None and rule.per_step == 2:
        candidate, most = candidates(alpha, beta, usable)
        stuck, why = batch.dead >= 0, batch.dead
    else:
        if rule.per_step == 1:
            feature, score = best_single(alpha, beta, usable)
            chosen = feature[:, None]
        else:
            first, second, score = top_two(alpha, usable)
            chosen = torch.stack([first, second], 1)
        if rule.product:
            total = alpha.gather(1, chosen).sum(1)
            score = torch.where(total * total > 0, score, 0)  # beta is -alpha
        stuck, why = score <= 0, _stuck_status(alpha, beta, usable)
    stop = reached | spent | stuck
    status = torch.where(reached, int(Status.SUCCESS), torch.where(spent, int(Status.BUDGET), why))
    broken = ~alpha.isfinite().all() if beta is None else ~(alpha.isfinite().all() & beta.isfinite().all())
    return _Decision(stop, status, usable, torch.stack([stop.sum(), most, broken.long()]), chosen, candidate)


def _stuck_status(alpha: Tensor, beta: Tensor | None, usable: Tensor) -> Tensor:
    moving = (alpha != 0) if beta is None else (alpha != 0) | (beta != 0)
    flat = usable.any(1) & ~(moving & usable).any(1)
    return torch.where(flat, int(Status.ZERO_GRADIENT), int(Status.NO_VALID_PAIR))


def _step(rule: _Rule, batch: _Batch, chosen: Tensor, going: Tensor) -> _Batch:
    """Set the chosen features of the attacks that go on."""
    flat = batch.x.flatten(1)
    x = flat.scatter(1, chosen, torch.where(going[:, None], rule.value, flat.gather(1, chosen))).view_as(batch.x)
    trace = batch.trace
    if trace.shape[1]:
        place = (batch.changed[:, None] + torch.arange(rule.per_step, device=x.device)).clamp(max=trace.shape[1] - 1)
        trace = trace.scatter(1, place, torch.where(going[:, None], chosen, trace.gather(1, place)))
    return batch._replace(x=x, trace=trace, changed=batch.changed + rule.per_step * going, loops=batch.loops + 1,
                          trusted=batch.trusted | going)  # fmt: skip


def _read_sizes(sizes: Tensor) -> list[int]:
    """The one thing that leaves the device in a step: how many attacks are over, the widest candidate list, whether to go on."""
    return sizes.tolist()


@torch.no_grad()
def _verdict(judge: nn.Module, x: Tensor, targets: Tensor, size: int) -> Tensor:
    """Whether the model, in float32, gives each image its target class."""
    classes = []
    for part in x.split(size):
        logits = judge(part.float())
        if not bool(logits.isfinite().all()):
            raise ValueError("the model's logits are not finite for some images; allowed is a model with finite logits")
        classes.append(logits.argmax(1))
    return torch.cat(classes) == targets


def automatic_batch_size(rank: _Ranker, image: Tensor, target: Tensor) -> int:
    """How many images of this shape keep the activations below `MEMORY`, counted on one image."""
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    weights = {p.untyped_storage().data_ptr() for p in rank.model.parameters()}
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        rank(image, target)
    activations = sum(size for pointer, size in seen.items() if pointer not in weights)
    per_image = 2 * activations + 16 * image[0].nbytes  # the backward pass holds gradients of about the same size
    return max(1, min(LARGEST_BATCH, int(MEMORY // per_image)))


# --- what is allowed -------------------------------------------------------------------------------------


def _rounded(value: float, *types: torch.dtype) -> float:
    """The value as numbers of all these types hold it."""
    given = value
    for dtype in types:
        value = torch.tensor(float(value), dtype=torch.float64).to(dtype).item()
    if not math.isfinite(value):
        raise ValueError(
            f"value is {given!r}; allowed is what images in {', '.join(str(t).removeprefix('torch.') for t in types)} can hold"
        )
    return value


def _number(given: object) -> bool:
    """Whether this is a finite number that a float holds, Python's or NumPy's."""
    given = given.item() if isinstance(given, np.generic) else given
    return isinstance(given, int | float) and not isinstance(given, bool) and abs(given) <= sys.float_info.max


def _check(model, images, targets, max_features, value, direction, output, temperature, features_per_step, batch_size, precision) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model is {type(model).__name__}; allowed is a torch.nn.Module that returns logits")
    if torch.is_inference_mode_enabled():
        raise ValueError("the attack needs derivatives; call it outside torch.inference_mode()")
    if not isinstance(images, Tensor) or images.dtype not in FLOATS or images.ndim < 2 or images.layout != torch.strided or images.is_meta:
        raise ValueError("images must be a dense floating-point tensor of shape (N, ...), 16 to 64 bits a number")
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64 or targets.shape != images.shape[:1]:
        raise ValueError(f"targets must be an int64 tensor of shape ({len(images)},), one class an image")
    if not bool(images.isfinite().all()):
        raise ValueError("images hold values that are not finite")
    features = images[0].numel() if len(images) else math.prod(images.shape[1:])
    if isinstance(max_features, bool) or not isinstance(max_features, int) or not 1 <= max_features <= features:
        raise ValueError(f"max_features is {max_features!r}; allowed is an integer from 1 to {features}, the image's features")
    if isinstance(features_per_step, bool) or not isinstance(features_per_step, int) or features_per_step not in (1, 2):
        raise ValueError(f"features_per_step is {features_per_step!r}; allowed are 1 and 2")
    if features < features_per_step == 2:
        raise ValueError("features_per_step is 2 and an image has one feature; allowed is features_per_step=1")
    if not _number(value):
        raise ValueError(f"value is {value!r}; allowed is a finite number")
    if not _number(temperature) or temperature <= 0:
        raise ValueError(f"temperature is {temperature!r}; allowed is a finite number above 0")
    for name, given, allowed in (("direction", direction, DIRECTIONS), ("output", output, OUTPUTS), ("precision", precision, PRECISIONS)):
        if not isinstance(given, str) or given not in allowed:
            raise ValueError(f"{name} is {given!r}; allowed are {', '.join(allowed)}")
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise ValueError(f"batch_size is {batch_size!r}; allowed is an integer above 0, or None")


def _check_classes(what: str, given: Tensor, classes: int) -> None:
    low, high = given.min().item(), given.max().item()
    if low < 0 or high >= classes:
        raise ValueError(f"{what} run from {low} to {high}; allowed are the model's classes, 0 to {classes - 1}")


def _cast(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The model itself if its weights have this type, else a copy that does."""
    if all(p.dtype == dtype for p in model.parameters()):
        return model
    return copy.deepcopy(model).to(dtype)


@contextlib.contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients for weights; everything as it was afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval()
        for parameter, _ in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in wanted:
            parameter.requires_grad_(flag)
