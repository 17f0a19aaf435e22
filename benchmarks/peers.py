"""JSMA against its peers: the same network, images, targets and budget, in one process, in turns.

Needs the environment that `make bench` makes (.bench-venv): the peers' own pins conflict with ours.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill import data, experiments, jsma, records
from distill.attacks.jsma import Status, all_targets

BUDGET = experiments.MAX_FEATURES


def ours(precision: str) -> Callable[[nn.Module, Tensor, Tensor, float], Tensor]:
    """Our attack on the softmax output."""

    def run(model: nn.Module, x: Tensor, targets: Tensor, value: float) -> Tensor:
        return jsma(model, x, targets, max_features=BUDGET, value=value, precision=precision).adversarial

    return run


def art(model: nn.Module, x: Tensor, targets: Tensor, value: float) -> Tensor:
    """Adversarial Robustness Toolbox: top two of the target's gradient, on softmax outputs as its algorithm needs."""
    from art.attacks.evasion import SaliencyMapMethod
    from art.estimators.classification import PyTorchClassifier

    low = float(x.min())
    probabilities = nn.Sequential(model, nn.Softmax(1))
    classifier = PyTorchClassifier(
        probabilities,
        loss=nn.CrossEntropyLoss(),
        input_shape=tuple(x.shape[1:]),
        nb_classes=10,
        clip_values=(low, value),
        device_type="cpu",
    )
    # It goes on while the changed share is at most gamma, so this gamma allows BUDGET features and not more.
    attack = SaliencyMapMethod(classifier, theta=value - low, gamma=(BUDGET - 1) / x[0].numel(), batch_size=256, verbose=False)
    return torch.from_numpy(attack.generate(x.numpy(), F.one_hot(targets, 10).numpy()))


def torchattacks(model: nn.Module, x: Tensor, targets: Tensor, value: float) -> Tensor:
    """torchattacks: one image at a time, n x n matrices; it knows images in [0, 1] only."""
    import torchattacks as library

    attack = library.JSMA(model, theta=1.0, gamma=BUDGET / x[0].numel())
    attack.set_mode_targeted_by_label(quiet=True)
    return attack(x, targets)


def dense(model: nn.Module, x: Tensor, targets: Tensor, value: float) -> Tensor:
    """Our own reference: Algorithm 3 as printed, every pair of features, one image at a time."""
    out = x.clone()
    n = x[0].numel()
    lower = torch.ones(n, n, dtype=torch.bool).tril()
    for row in range(len(x)):
        image, changed = out[row].clone(), 0
        while changed + 2 <= BUDGET:
            leaf = image[None].detach().requires_grad_()
            logits = model(leaf)
            if logits.argmax(1).item() == targets[row]:
                break
            probabilities = F.softmax(logits, 1)[0]
            (alpha,) = torch.autograd.grad(probabilities[targets[row]], leaf)
            a = torch.where(image.flatten() < value, alpha.flatten().double(), -torch.inf)
            saliency = (a[:, None] + a[None, :]).masked_fill_(lower, -torch.inf)
            best = int(saliency.argmax())
            if saliency.flatten()[best] <= 0:
                break
            flat = image.flatten()
            flat[[best // n, best % n]] = value
            image, changed = flat.view_as(image), changed + 2
        out[row] = image
    return out


def measure(name: str, store: str, images: int, few: int, rounds: int) -> list[dict]:
    """Rows of seconds, success and ratio; slow peers on ``few`` attacks, beside our time for the same few."""
    context = experiments.Context.new(store)
    config = experiments.plan("quick", name, ["none"], stages=["train"])[0]
    model = experiments.load_model(config, context).model
    test, value = data.load(name, train=False), data.dataset(name).value
    drawn = torch.from_numpy(experiments.drawn_images(len(test.y), images))
    x = test.x[drawn]
    if name == "cifar10":  # the peers move features beyond the value down to it; ours leaves them. Same start for all.
        x = x.clamp(max=value)
    rows, targets = all_targets(model(x).argmax(1).detach(), 10)
    attacks = x[rows]
    contestants = {"distill, float32": ours("float32"), "distill, bfloat16 ranking": ours("bfloat16"), "ART 1.20": art}
    found = compare(model, attacks, targets, value, contestants, rounds, name)
    slow: dict[str, Callable] = {"distill, float32": ours("float32"), "dense reference": dense}
    if name == "mnist":
        slow["torchattacks 3.5"] = torchattacks
    step = max(1, len(attacks) // few)
    found += compare(model, attacks[::step][:few], targets[::step][:few], value, slow, 1, name)
    return found


def compare(model, x, targets, value, contestants, rounds, name) -> list[dict]:
    """Every contestant in turn, ``rounds`` times; a warm-up on a few attacks first."""
    times: dict[str, list[float]] = {label: [] for label in contestants}
    success: dict[str, float] = {}
    for attack in contestants.values():
        attack(model, x[:2], targets[:2], value)
    for _ in range(rounds):
        for label, attack in contestants.items():
            started = time.perf_counter()
            out = attack(model, x, targets, value)
            times[label].append(time.perf_counter() - started)
            with torch.no_grad():
                reached = torch.cat([model(part).argmax(1) for part in out.split(500)]) == targets
            changed = (out != x).flatten(1).sum(1)
            success[label] = (reached & (changed <= BUDGET)).float().mean().item()
    first = next(iter(contestants))
    return [
        {"dataset": name, "what": label, "attacks": len(x), "seconds": float(np.median(seconds)), "success": success[label],
         "ratio": float(np.median([s / o for s, o in zip(seconds, times[first], strict=True)]))}
        for label, seconds in times.items()
    ]  # fmt: skip


def overhead(name: str, store: str, images: int) -> dict:
    """Total time of the attack over the time of the passes it counted, measured alone at the same batch size."""
    context = experiments.Context.new(store)
    model = experiments.load_model(experiments.plan("quick", name, ["none"], stages=["train"])[0], context).model
    test, value = data.load(name, train=False), data.dataset(name).value
    x = test.x[torch.from_numpy(experiments.drawn_images(len(test.y), images))]
    rows, targets = all_targets(model(x).argmax(1).detach(), 10)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    started = time.perf_counter()
    found = jsma(model, x[rows], targets, max_features=BUDGET, value=value, batch_size=256)
    total = time.perf_counter() - started
    pairs = (found.passes - 1).sum().item() / 2
    batch, target = x[rows][:256].clone(), targets[:256]
    seconds, repeats = 0.0, 8
    for number in range(repeats + 1):
        started = time.perf_counter()
        leaf = batch.detach().requires_grad_()
        torch.autograd.grad(F.softmax(model(leaf), 1).gather(1, target[:, None]).sum(), leaf)
        seconds += (time.perf_counter() - started) * (number > 0)
    passes = pairs * seconds / repeats / len(batch)
    return {"dataset": name, "attacks": len(targets), "seconds": total, "passes_seconds": passes, "ratio": total / passes,
            "success": found.success.float().mean().item(),
            "zero_gradient": (found.status == Status.ZERO_GRADIENT).float().mean().item()}  # fmt: skip


def main() -> None:
    """Run as a script."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--store", required=True)
    options.add_argument("--images", type=int, default=28, help="nine attacks each")
    options.add_argument("--few", type=int, default=9, help="attacks for peers that take one image at a time")
    options.add_argument("--rounds", type=int, default=2)
    chosen = options.parse_args()
    warnings.filterwarnings("ignore")
    experiments.keep_freed_memory()
    rows, overheads = [], []
    for name in ("mnist", "cifar10"):
        rows += measure(name, chosen.store, chosen.images, chosen.few, chosen.rounds)
        overheads.append(overhead(name, chosen.store, 2 * chosen.images))
    for row in rows:
        print(
            f"{row['dataset']:8} {row['what']:28} {row['attacks']:5} attacks {row['seconds']:8.2f} s  success {row['success']:6.1%}  time / ours {row['ratio']:.2f}"
        )
    for row in overheads:
        print(f"{row['dataset']:8} total {row['seconds']:.2f} s = {row['ratio']:.3f} x its passes ({row['attacks']} attacks)")
    print(json.dumps({"rows": rows, "overheads": overheads, "environment": records.environment()}))


if __name__ == "__main__":
    main()
