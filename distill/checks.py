"""Does an attack's failure mean anything? Flags about a model and the attack that is to judge it.

In the manner of AutoAttack's (Croce & Hein 2020) and of the indicators of Pintor et al. 2022 (arXiv 2106.09947):
a few cheap attacks on a handful of images, and a flag for every sign that a white-box attack would overstate the
model's robustness. `EXPLANATIONS` says what each means.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import scipy
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill import models
from distill.attacks.jsma import _cast, _check_classes, _frozen, _number, jsma
from distill.attacks.others import _check, _check_budget, attack

LEVEL = 0.01  # of the one-sided sign test between two attacks on the same images
NEARLY_ALL = 0.95  # an attack that may change everything must succeed this often


class Flag(NamedTuple):
    """A sign of trouble: its stable name, the numbers it stands on, and one line for a reader."""

    name: str
    numbers: dict[str, float]
    message: str


class Explanation(NamedTuple):
    """What a reader is told of a flag."""

    raised_if: str
    meaning: str
    what_to_do: str


EXPLANATIONS = {
    "NOT_LOGITS": Explanation(
        "the outputs of every image are at least 0 and sum to 1",
        "Attacks that take a softmax or compare logits would work on probabilities, whose differences underflow. No other check is made.",
        "Remove the softmax from the model: hand over what comes before it.",
    ),
    "RANDOMIZED": Explanation(
        "two forward passes of the same images in evaluation mode differ",
        "A single gradient is noise and a single verdict is chance; the other flags are then not to be relied upon.",
        "Average gradients and predictions over many passes (expectation over transformation), or fix the randomness.",
    ),
    "ZERO_GRADIENT": Explanation(
        "the float32 gradient of the cross-entropy at the given temperature is exactly zero in some image",
        "The softmax is saturated, or the model has flat steps. Attacks on probabilities see nothing there and stand still.",
        "Divide the logits by a constant, or attack logits or log-probabilities; if it is zero still, put a smooth function in the place of the flat step for the gradient, or use an attack without gradients.",
    ),
    "SCALE_DEPENDENT": Explanation(
        "PGD or the JSMA succeeds on more images when the logits are divided by a further constant",
        "Dividing by a constant changes no prediction, so the model is no more robust than the better result says; the rest is arithmetic.",
        "Report the better temperature, or an attack that no scale changes (apgd_dlr, fmn_*).",
    ),
    "GRADIENT_FREE_WINS": Explanation(
        "the square attack succeeds on more images than PGD within the same radius",
        "An attack that may use gradients should not lose to one that may not: the gradients mislead, they are masked.",
        "Do not report PGD alone; attack the model with its logits divided, or a smooth version of it, and report the union of attacks.",
    ),
    "BUDGET_DOES_NOT_HELP": Explanation(
        f"PGD that may change every pixel at will succeeds on less than {NEARLY_ALL:.0%} of the images",
        "With no bound any image can become any other, so it is the attack that fails and not the model that resists.",
        "Mend the attack (gradients, steps, step size) before believing its success at any smaller budget.",
    ),
    "ONE_STEP_WINS": Explanation(
        "FGSM succeeds on more images than PGD within the same radius",
        "More steps should find at least as much; the gradients around the image do not lead anywhere.",
        "Look for masked gradients; take smaller steps, more of them, and several random starts.",
    ),
    "TRANSFER_WINS": Explanation(
        "PGD's images for another network, handed over as `surrogate=`, fool the model more often than PGD's images for the model itself",
        "The surrogate's gradients show the way better than the model's own: those are masked.",
        "Report the transferred images in the union of attacks; attack through the surrogate's gradients.",
    ),
    "RANDOM_WINS": Explanation(
        "random signs of the same radius succeed on more images than PGD",
        "The attack does worse than chance.",
        "The attack is broken; check its loss, its sign and its step size.",
    ),
}  # fmt: skip


def diagnose(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    radius: float = 0.1,
    temperature: float = 1.0,
    divisors: Sequence[float] = (10, 100, 1000),
    max_features: int | None = None,
    surrogate: nn.Module | None = None,
    steps: int = 40,
    queries: int = 500,
    seed: int = 0,
) -> list[Flag]:
    """Look for signs that white-box attacks on this model at this temperature understate what can be done.

    Parameters
    ----------
    model : nn.Module
        Maps (N, C, H, W) to logits (N, classes); run in evaluation mode and left as it was.
    images, labels : Tensor
        Floating point (N, C, H, W) in [0, 1] (see `distill.attacks.others.Pixels`) and int64 (N,). Twenty to fifty are enough;
        images that the model gets wrong are left out. Attacks are compared by a sign test, which needs seven.
    radius : float
        Linf bound at which attacks are compared; best one at which PGD succeeds on some images and not on all.
    temperature : float
        The logits are divided by it before an attack sees them: the evaluation that is to be judged.
    divisors : sequence of float
        By which they are divided further to see whether the scale matters.
    max_features : int, optional
        The JSMA's budget; without it a seventh of the features, about the paper's 112 of 784.
    surrogate : nn.Module, optional
        Another network for the same images, such as the undefended one.
    steps, queries, seed : int
        Of PGD, of the square attack, and of both.

    Returns
    -------
    list of Flag
        Empty if nothing is suspicious. Rates are shares of the images that the model gets right; that of RANDOMIZED, of all images.

    Raises
    ------
    ValueError
        If an argument is not allowed, or the model gets no image right.
    ImportError
        If a library that an attack comes from is not installed (requirements-attacks.txt).
    """
    if not isinstance(divisors, Sequence) or not divisors or not all(_number(divisor) and divisor > 1 for divisor in divisors):
        raise ValueError(f"divisors is {divisors!r}; allowed is a sequence of numbers above 1, one or more")
    _check("pgd", model, images, labels, None, temperature, steps, 100, {"radius": radius}, seed)
    if max_features is not None:
        _check_budget(max_features, images)
    with _frozen(model), torch.no_grad():
        weight = next(iter(model.parameters()), images)
        judge = _cast(model, torch.float32).eval()
        x = images.to(weight.device, torch.float32)
        logits, again = models.trial(judge, x, probabilities=True), judge(x)
    _check_classes("labels", labels, logits.shape[1])
    if bool((logits >= 0).all()) and bool(((logits.sum(1) - 1).abs() < 1e-4).all()):
        return [Flag("NOT_LOGITS", {}, "the model returns probabilities; nothing else was checked")]
    right = (logits.argmax(1) == labels.to(logits.device)).to(images.device)
    if not bool(right.any()):
        raise ValueError("the model gets none of the images right; allowed are images of which it gets some right")
    images, labels = images[right], labels[right]

    flags: list[Flag] = []
    if not torch.equal(logits, again):
        share = (logits != again).any(1).float().mean().item()
        flags.append(Flag("RANDOMIZED", {"share": share}, f"two forward passes differ in {share:.0%} of the images"))
    leaf = x[right.to(x.device)].requires_grad_()
    with _frozen(model):
        (gradient,) = torch.autograd.grad(F.cross_entropy(judge(leaf) / temperature, labels.to(x.device), reduction="sum"), leaf)
    zero = (gradient.flatten(1) == 0).all(1).float().mean().item()
    if zero:
        flags.append(Flag("ZERO_GRADIENT", {"share": zero}, f"the gradient is exactly zero in {zero:.0%} of the images"))

    def won(name: str, at: float = temperature, **options: Any) -> Tensor:
        return attack(name, model, images, labels, temperature=at, seed=seed, **options).success

    def compare(name: str, better: Tensor, worse: Tensor, text: str, **values: float) -> None:
        if _beats(better, worse):
            values = {"rate": better.float().mean().item(), "compared_with": worse.float().mean().item(), **values}
            flags.append(Flag(name, values, f"{text}: {values['rate']:.0%} against {values['compared_with']:.0%}"))

    def descent(at: float) -> Tensor:
        return won("pgd", at, radius=radius, steps=steps)

    def saliency(at: float) -> Tensor:
        return jsma(model, images, runner_up, max_features=budget, temperature=at).success

    budget = max(1, images[0].numel() // 7) if max_features is None else int(max_features)
    white_box, runner_up = descent(temperature), logits.topk(2, 1).indices[:, 1].to(labels.device)[right]
    for name, run, here in (("PGD", descent, white_box), ("the JSMA", saliency, saliency(temperature))):
        found = {divisor: run(temperature * divisor) for divisor in divisors}
        best = max(found, key=lambda divisor: int(found[divisor].sum()))
        compare("SCALE_DEPENDENT", found[best], here, f"{name} succeeds more often with logits divided by a further {best:g}", divisor=best)
    compare("GRADIENT_FREE_WINS", won("square", radius=radius, steps=queries), white_box, "the square attack beats PGD")
    unbounded = won("pgd", radius=1.0, steps=steps, random_start=False).float().mean().item()  # random images would win by themselves
    if unbounded < NEARLY_ALL:
        flags.append(
            Flag("BUDGET_DOES_NOT_HELP", {"rate": unbounded}, f"PGD without a bound succeeds on {unbounded:.0%} of the images only")
        )
    compare("ONE_STEP_WINS", won("fgsm", radius=radius), white_box, "FGSM beats PGD")
    if surrogate is not None:
        crafted = attack("pgd", surrogate, images, labels, radius=radius, steps=steps, seed=seed).adversarial
        with _frozen(model), torch.no_grad():
            fooled = judge(crafted.to(x)).argmax(1).to(labels.device) != labels
        compare("TRANSFER_WINS", fooled, white_box, "the surrogate's images beat PGD's own")
    compare("RANDOM_WINS", won("random", radius=radius), white_box, "random signs beat PGD")
    return flags


def _beats(better: Tensor, worse: Tensor) -> bool:
    """Whether one attack succeeds on more of the same images than another: a one-sided exact sign test."""
    up, down = int((better & ~worse).sum()), int((worse & ~better).sum())
    return up > down and scipy.stats.binomtest(up, up + down, alternative="greater").pvalue < LEVEL
