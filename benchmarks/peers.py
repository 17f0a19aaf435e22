"""JSMA against its peers: the same network, images, targets and budget, in one process, in turns.

Needs the environment that `make bench` makes (.bench-venv): the peers' own pins conflict with ours.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill import data, experiments, jsma, plans, records
from distill.attacks.jsma import Status, all_targets

BUDGET = plans.MAX_FEATURES
IMAGES = {"mnist": 112, "cifar10": 28}  # nine attacks each
FEW = {"mnist": 90, "cifar10": 36}  # attacks for those that take one image at a time
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

Attack = Callable[[nn.Module, Tensor, Tensor, float], Tensor]


def ours(precision: str) -> Attack:
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
        device_type="gpu" if x.is_cuda else "cpu",
    )
    # It goes on while the changed share is at most gamma, so this gamma allows BUDGET features and not more.
    attack = SaliencyMapMethod(classifier, theta=value - low, gamma=(BUDGET - 1) / x[0].numel(), batch_size=256, verbose=False)
    found = attack.generate(x.cpu().numpy(), F.one_hot(targets, 10).cpu().numpy())
    return torch.from_numpy(found).to(x.device)


class Rescaled(nn.Module):
    """A network for images in [0, 1], which it moves to the range that the inner one expects."""

    def __init__(self, inner: nn.Module, low: float, high: float) -> None:
        super().__init__()
        self.inner, self.low, self.high = inner, low, high

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(self.low + (self.high - self.low) * x)


def torchattacks(model: nn.Module, x: Tensor, targets: Tensor, value: float) -> Tensor:
    """torchattacks: one image at a time, n x n matrices; it knows images in [0, 1] only, so they are moved there."""
    import torchattacks as library

    low = float(x.min())
    attack = library.JSMA(Rescaled(model, low, value).eval(), theta=1.0, gamma=BUDGET / x[0].numel())
    attack.set_mode_targeted_by_label(quiet=True)
    start = (x - low) / (value - low)
    found = attack(start, targets)
    return torch.where(found == start, x, low + (value - low) * found)  # what it left alone is as it was


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


CONTESTANTS: dict[str, Attack] = {"distill, float32": ours("float32"), "distill, bfloat16 ranking": ours("bfloat16"), "ART 1.20": art}
ONE_BY_ONE: dict[str, Attack] = {"distill, float32": ours("float32"), "dense reference": dense, "torchattacks 3.5": torchattacks}


def problem(name: str, store: str, images: int, device: str) -> tuple[nn.Module, Tensor, Tensor, float]:
    """The undefended network of the profile quick, the attacked images, one an attack, their targets and the value."""
    config = plans.plan("quick", name, ["none"], stages=["train"])[0]
    model = experiments.load_model(config, experiments.Context.new(store)).model
    test, value = data.load(name, train=False), data.dataset(name).value
    x = test.x[torch.from_numpy(plans.drawn_images(len(test.y), images))]
    if name == "cifar10":  # the peers move features beyond the value down to it; ours leaves them. Same start for all.
        x = x.clamp(max=value)
    rows, targets = all_targets(model(x).argmax(1).detach(), 10)
    return model.to(device), x[rows].to(device), targets.to(device), value


def measure(name: str, store: str, rounds: int, device: str) -> list[dict]:
    """Rows of seconds, success, memory and ratio; one-by-one peers on `FEW` attacks, beside our time for the same."""
    model, x, targets, value = problem(name, store, IMAGES[name], device)
    found = compare(model, x, targets, value, CONTESTANTS, rounds, name)
    few = slice(None, None, len(x) // FEW[name])
    found += compare(model, x[few][: FEW[name]], targets[few][: FEW[name]], value, ONE_BY_ONE, 1, name)
    for row in found:
        command = [sys.executable, __file__, "--store", store, "--memory", name, row["what"], device]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        row["extra_megabytes"] = float(done.stdout.split()[-1])
    return found


def memory(name: str, store: str, what: str, device: str) -> float:
    """MB by which the peak of nine attacks lies above the peak of the network's own pass over those images, in a process of its own."""
    model, x, targets, value = problem(name, store, 1, device)
    try:  # importing a library is no memory of its attack
        import art  # noqa: F401
        import torchattacks  # noqa: F401
    except ImportError:
        pass

    def passes() -> None:
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(model(leaf).sum(), leaf)

    attack = {**CONTESTANTS, **ONE_BY_ONE}[what]
    passes()  # what the first pass sets up for good
    return peak(lambda: attack(model, x, targets, value), device) - peak(passes, device)


def peak(run: Callable[[], object], device: str) -> float:
    """The largest memory in MB while something runs; nan where the system cannot reset its count."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() / 1e6
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return float("nan")
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    reset.write_text("5")  # proc(5): the peak of resident memory starts again from now
    run()
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) / 1e3


def clock(device: torch.device) -> float:
    """The time, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def compare(model, x, targets, value, contestants, rounds, name) -> list[dict]:
    """Every contestant in turn, ``rounds`` times; a warm-up on a few attacks first."""
    times: dict[str, list[float]] = {label: [] for label in contestants}
    success: dict[str, float] = {}
    for attack in contestants.values():
        attack(model, x[:2], targets[:2], value)
    for _ in range(rounds):
        for label, attack in contestants.items():
            started = clock(x.device)
            out = attack(model, x, targets, value)
            times[label].append(clock(x.device) - started)
            with torch.no_grad():
                reached = torch.cat([model(part).argmax(1) for part in out.split(500)]) == targets
            changed = (out != x).flatten(1).sum(1)
            success[label] = (reached & (changed <= BUDGET)).float().mean().item()
    first = next(iter(contestants))
    return [
        {"dataset": name, "device": x.device.type, "what": label, "attacks": len(x), "seconds": float(np.median(seconds)), "success": success[label],
         "ratio": float(np.median([s / o for s, o in zip(seconds, times[first], strict=True)]))}
        for label, seconds in times.items()
    ]  # fmt: skip


def overhead(name: str, store: str, device: str) -> dict:
    """Total time of 1,008 attacks over the time of the passes they counted, measured alone in full batches."""
    model, x, targets, value = problem(name, store, 112, device)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    size = 256
    batch, target = x[:size], targets[:size]
    both, single = [], []

    def pair() -> None:
        leaf = batch.detach().requires_grad_()
        torch.autograd.grad(F.softmax(model(leaf), 1).gather(1, target[:, None]).sum(), leaf)

    def forward() -> None:
        with torch.no_grad():
            model(batch)

    def time_passes(repeats: int) -> None:
        for times, passes in ((both, pair), (single, forward)):
            for _ in range(repeats):
                started = clock(x.device)
                passes()
                times.append(clock(x.device) - started)

    jsma(model, batch, target, max_features=4, value=value, batch_size=size)  # warm
    time_passes(2)
    both.clear(), single.clear()
    time_passes(6)  # before and after, so that a drift of the machine's speed falls on both sides
    started = clock(x.device)
    found = jsma(model, x, targets, max_features=BUDGET, value=value, batch_size=size)
    total = clock(x.device) - started
    time_passes(6)
    verdicts = len(x)  # one forward pass judges each attack at its end
    pairs = (found.passes.sum().item() - verdicts) / 2
    passes = (pairs * np.mean(both) + verdicts * np.mean(single)) / size
    return {"dataset": name, "device": device, "attacks": len(x), "seconds": total, "passes_seconds": float(passes), "ratio": float(total / passes),
            "success": found.success.float().mean().item(), "passes": int(found.passes.sum()),
            "zero_gradient": (found.status == Status.ZERO_GRADIENT).float().mean().item()}  # fmt: skip


def main() -> None:
    """Run as a script."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--store", required=True)
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--memory", nargs=3, metavar=("DATASET", "ATTACK", "DEVICE"))
    chosen = options.parse_args()
    warnings.filterwarnings("ignore")
    if chosen.memory:
        name, what, device = chosen.memory
        print(memory(name, chosen.store, what, device))
        return
    experiments.keep_freed_memory()
    rows, overheads = [], []
    for device in DEVICES:
        for name in IMAGES:
            overheads.append(overhead(name, chosen.store, device))
            rows += measure(name, chosen.store, chosen.rounds, device)
    for row in rows:
        print(
            f"{row['dataset']:8} {row['device']:5} {row['what']:28} {row['attacks']:5} attacks {row['seconds']:8.2f} s  success {row['success']:6.1%}"
            f"  time / ours {row['ratio']:6.2f}  {row['extra_megabytes']:6.0f} MB beyond the network's own"
        )
    for row in overheads:
        print(
            f"{row['dataset']:8} {row['device']:5} total {row['seconds']:.2f} s = {row['ratio']:.3f} x its passes ({row['attacks']} attacks)"
        )
    print(json.dumps({"rows": rows, "overheads": overheads, "environment": records.environment()}))


if __name__ == "__main__":
    main()
