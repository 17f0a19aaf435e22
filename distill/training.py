"""One ``fit`` for teacher and student: cross-entropy at a temperature, on hard or on soft labels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from distill import models

LARGEST_SEED = 2**32 - 1  # streams drawn from it must fit into torch's 64 bits


class TrainingError(RuntimeError):
    """A training that cannot go on."""


class CheckpointError(TrainingError):
    """A checkpoint that cannot be written."""


@dataclass(frozen=True)
class Recipe:
    """Everything about a training but the data, the temperature and the seed.

    Attributes
    ----------
    epochs : float
        Passes over the training set; a fraction ends within a pass.
    optimiser : {"sgd", "adam"}
    learning_rate, momentum : float
        ``momentum`` is that of SGD; Adam, which has none, takes it as its first coefficient.
    nesterov : bool
        Nesterov's momentum, of SGD alone.
    learning_rate_decay, momentum_decay : float
        Both are multiplied by these every ``decay_every`` epochs; the momentum with SGD alone.
    one_cycle : bool
        Instead of the decay: the rate rises linearly over the first fifth and falls linearly to zero.
    dropout : float
        From 0 to below 1, of the networks that are built for the recipe.
    """

    name: str
    epochs: float
    optimiser: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.5
    nesterov: bool = False
    learning_rate_decay: float = 1.0
    momentum_decay: float = 1.0
    decay_every: int = 10
    one_cycle: bool = False
    dropout: float = 0.5
    batch_size: int = 128


_MNIST = Recipe("table2", 50, learning_rate=0.1, momentum=0.5)
_CIFAR10 = Recipe("table2", 50, learning_rate=0.01, momentum=0.9, learning_rate_decay=0.5, momentum_decay=0.5)
RECIPES = {
    ("table2", "mnist"): _MNIST,
    ("table2", "cifar10"): _CIFAR10,
    # Section V-A's decay of 0.95; Table II's 0.5 for rate and momentum stalls at high temperatures.
    ("paper", "mnist"): dataclasses.replace(_MNIST, name="paper"),
    ("paper", "cifar10"): dataclasses.replace(_CIFAR10, name="paper", learning_rate_decay=0.95, momentum_decay=1.0),
    ("quick", "mnist"): Recipe("quick", 0.7, "adam", 3e-3, 0.9, one_cycle=True, dropout=0.2),
    ("quick", "cifar10"): Recipe("quick", 1.0, "adam", 2.5e-3, 0.9, one_cycle=True, dropout=0.0, batch_size=64),
    ("smoke", "mnist"): Recipe("smoke", 1, "adam", 3e-3, 0.9, one_cycle=True, dropout=0.2, batch_size=32),
}  # fmt: skip


def recipe(name: str, architecture: str) -> Recipe:
    """The recipe ``name`` for an architecture.

    Raises
    ------
    ValueError
        If there is none.
    """
    if (name, architecture) not in RECIPES:
        known = ", ".join(f"{n} ({a})" for n, a in RECIPES)
        raise ValueError(f"no recipe {name!r} for the architecture {architecture!r}: known are {known}")
    return RECIPES[name, architecture]


def soft_labels(teacher: nn.Module, x: Tensor, temperature: float, *, batch_size: int = 1000) -> Tensor:
    """The teacher's probabilities at a temperature, without dropout: F(X) of section IV-B.

    Returns
    -------
    Tensor
        float32 (N, classes), on the device of ``x``.
    """
    check_temperature(temperature)
    return torch.cat([F.softmax(z / temperature, 1) for z in _logits(teacher, x, batch_size)])


def smoothed_labels(labels: Tensor, classes: int) -> Tensor:
    """Soft labels without distillation, the control of section V-B: 0.9 for the class, 0.1 / ``classes`` for each of the others.

    Returns
    -------
    Tensor
        float32 (N, classes); the paper's weights, which for ten classes sum to 0.99.
    """
    others = torch.full((len(labels), classes), 1 / (10 * classes), device=labels.device)
    return others.scatter(1, labels[:, None], 0.9)


def accuracy(model: nn.Module, x: Tensor, y: Tensor, *, batch_size: int = 1000) -> Tensor:
    """Which images are classified rightly, in float32 and without dropout.

    Returns
    -------
    Tensor
        bool (N,); its mean is the accuracy.

    Raises
    ------
    ValueError
        If there is not one label an image.
    """
    if y.shape != x.shape[:1]:
        raise ValueError(f"labels have the shape {tuple(y.shape)}; allowed is ({len(x)},), one an image")
    return torch.cat([z.argmax(1) for z in _logits(model, x, batch_size)]) == y


@torch.no_grad()
def _logits(model: nn.Module, x: Tensor, batch_size: int) -> list[Tensor]:
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size is {batch_size!r}; allowed is an integer above 0")
    was_training, _ = model.training, model.eval()
    out = [model(part.clone()) for part in _channels_last(x).split(batch_size)]  # which a model may change in place
    model.train(was_training)
    return out


class Defended(NamedTuple):
    """What defensive distillation leaves: the network to use, and the one it was trained on."""

    student: nn.Module
    teacher: nn.Module


def defend(
    model_factory: Callable[[], nn.Module],
    images: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    recipe: Recipe,
    seed: int = 0,
    precision: str = "float32",
    progress: bool = False,
) -> Defended:
    """Defensive distillation of any network in one call (section IV-B).

    Parameters
    ----------
    model_factory : callable
        Returns a new network each time, (N, ...) to logits (N, classes), on the device of the images.
    images : Tensor
        float32 (N, ...), the training set.
    labels : Tensor
        int64 (N,).
    temperature : float
        T of teacher, soft labels and student; the student is used at T = 1, as it is returned.
    recipe : Recipe
        Of both trainings, such as ``Recipe("mine", epochs=10, optimiser="adam", learning_rate=1e-3, momentum=0.9)``.
    seed, precision, progress
        See `fit`. The teacher is drawn by the factory, from torch's generator, and trained with the
        seed ``2 * seed``, the student with ``2 * seed + 1``; so half of the largest seed of `fit` is the largest here.

    Returns
    -------
    Defended
        ``student`` and ``teacher``, in evaluation mode.
    """
    check_training_temperature(temperature)
    check_seed(seed, LARGEST_SEED // 2)
    _check_recipe(recipe)
    if not (isinstance(images, Tensor) and isinstance(labels, Tensor)):
        raise ValueError("images and labels must be tensors: float32 (N, ...) and int64 (N,)")
    if isinstance(model_factory, nn.Module) or not callable(model_factory):
        raise ValueError(
            f"model_factory is {type(model_factory).__name__}; allowed is a function that returns a new torch.nn.Module each time"
        )
    networks: list[nn.Module] = []
    targets = labels
    for role in ("teacher", "student"):
        with torch.random.fork_rng(devices=[images.device] if images.is_cuda else []):
            torch.manual_seed(seed * 2 + len(networks))
            model = model_factory()
        if not isinstance(model, nn.Module):
            raise ValueError(f"model_factory returned {type(model).__name__}; allowed is a new torch.nn.Module each time")
        if {id(p) for p in model.parameters()} & {id(p) for p in (networks[0].parameters() if networks else ())}:
            raise ValueError("model_factory returned the teacher's own weights for the student; allowed is a new network each time")
        fit(model, images, targets, temperature=temperature, recipe=recipe, seed=seed * 2 + len(networks), precision=precision,
            name=f"{role} T={temperature:g}", progress=progress)  # fmt: skip
        networks.append(model)
        if role == "teacher":
            targets = soft_labels(model, images, temperature)
    return Defended(student=networks[1], teacher=networks[0])


def check_temperature(temperature: float) -> float:
    """The temperature, NumPy's numbers as Python's; ``ValueError`` unless it is finite and above zero."""
    number = temperature.item() if isinstance(temperature, np.generic) else temperature
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < math.inf:
        raise ValueError(f"temperature is {temperature!r}; allowed is a finite number above 0")
    return number


def check_training_temperature(temperature: float) -> float:
    """As `check_temperature`; ``ValueError`` also unless networks, which are trained in float32, can be trained at it."""
    number = check_temperature(temperature)
    if not torch.finfo(torch.float32).tiny <= number <= torch.finfo(torch.float32).max:
        raise ValueError(f"temperature is {temperature!r}; allowed is what float32 holds, 1.2e-38 to 3.4e38")
    return number


def check_seed(seed: int, largest: int = LARGEST_SEED) -> None:
    """Raise ``ValueError`` unless the seed is an integer from 0 to ``largest``."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= largest:
        raise ValueError(f"seed is {seed!r}; allowed are integers from 0 to {largest}")


def best_precision(device: torch.device | str = "cpu") -> str:
    """``"bfloat16"`` where the device multiplies bfloat16 in hardware, else ``"float32"``.

    On a processor without such instructions bfloat16 convolutions are emulated and slower than float32.
    """
    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    fast = torch.cpu.is_available() and (torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())
    return "bfloat16" if fast else "float32"


def fit(
    model: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    temperature: float,
    recipe: Recipe,
    seed: int = 0,
    precision: str = "float32",
    checkpoint: str | os.PathLike | None = None,
    name: str = "network",
    progress: bool = False,
) -> list[dict]:
    """Train a network in place by cross-entropy between softmax(Z / T) and labels (section IV-B, equation 2).

    Parameters
    ----------
    model : nn.Module
        Maps (N, C, H, W) to logits (N, classes); it and the data are on the same device.
    x : Tensor
        float32 (N, C, H, W), the whole training set: it is shuffled on its device, without loader workers.
    labels : Tensor
        int64 (N,) hard labels, or float32 (N, classes) soft labels.
    temperature : float
        T of the softmax, above zero.
    recipe : Recipe
    seed : int
        Order of the images and dropout. The same seed, device and thread count give the same weights.
    precision : {"float32", "bfloat16"}
        Of the layers' arithmetic; softmax, loss and weights are always float32. The networks of `distill.models`
        also keep their last layer in float32, with any other network it is autocast like the rest.
    checkpoint : path, optional
        Written after every epoch but the last and read at the start: a killed training goes on where it was, and ends
        with the weights that an undisturbed one has. It cannot hold a network with tied weights.
    name : str
        Says in progress and errors which network this is.

    Returns
    -------
    list of dict
        An entry an epoch: ``epoch``, ``loss``, ``accuracy`` (on the training batches as they went by, against
        the label's largest entry, with dropout), ``seconds``.

    Raises
    ------
    TrainingError
        If the loss is not finite, or the checkpoint is not this training's or of another network.
    CheckpointError
        If the checkpoint cannot be written, or the network has tied weights.
    ValueError
        If an argument is out of range, the model cannot take the images, or it returns probabilities.
    """
    if not isinstance(model, nn.Module) or not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"model is {type(model).__name__}; allowed is a torch.nn.Module that has weights to train, not all of them frozen")
    temperature = check_training_temperature(temperature)
    check_seed(seed)
    if precision not in ("float32", "bfloat16"):
        raise ValueError(f"precision is {precision!r}; allowed are float32, bfloat16")
    if len(x) != len(labels) or len(x) == 0:
        raise ValueError(f"{len(x)} images and {len(labels)} labels; allowed is one label an image, and at least one")
    if x.dtype in (torch.float16, torch.bfloat16):
        raise ValueError(f"images are {str(x.dtype).removeprefix('torch.')}; allowed is float32")
    if not bool(x.isfinite().all()):
        raise ValueError("images hold values that are not finite")
    _check_recipe(recipe)
    _check_labels(model, x, labels)
    per_epoch = math.ceil(len(x) / recipe.batch_size)
    steps = max(1, round(recipe.epochs * per_epoch))
    epochs = math.ceil(steps / per_epoch)
    optimiser = _optimiser(model, recipe)
    signature, history = "", []
    if checkpoint:
        _check_untied(model)
        signature = json.dumps([dataclasses.asdict(recipe), temperature, seed, precision, name, _digest(x, labels)], sort_keys=True)
        history = _resume(checkpoint, signature, model, optimiser)
    images = _channels_last(x)
    hard = labels if labels.ndim == 1 else labels.argmax(1)
    model.train()
    bar = tqdm(total=steps, initial=len(history) * per_epoch, desc=name, unit="batch", disable=not progress, leave=False)
    with bar, torch.enable_grad(), torch.random.fork_rng(devices=[x.device] if x.is_cuda else []):
        for epoch in range(len(history), epochs):
            started = time.perf_counter()
            torch.manual_seed(seed * 1_000_003 + epoch)  # each epoch has its own stream, so resuming needs no state
            order = torch.randperm(len(x), device=x.device)
            losses, right = [], torch.zeros((), device=x.device)
            for step, rows in enumerate(order.split(recipe.batch_size), start=epoch * per_epoch):
                if step >= steps:
                    break
                _set_rate(optimiser, recipe, step / steps, epoch)
                with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
                    logits = model(images[rows])
                logits = logits.float()
                loss = F.cross_entropy(logits / temperature, labels[rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(loss.detach())
                right += (logits.detach().argmax(1) == hard[rows]).sum()
                bar.update()
            mean_loss = torch.stack(losses).mean().item()
            if not math.isfinite(mean_loss):
                raise TrainingError(f"{name}: the loss is {mean_loss} in epoch {epoch + 1}; the training was stopped")
            seen = min(len(x), len(losses) * recipe.batch_size)
            bar.set_postfix(loss=f"{mean_loss:.3f}")
            history.append({"epoch": epoch + 1, "loss": mean_loss, "accuracy": right.item() / seen,
                            "seconds": time.perf_counter() - started})  # fmt: skip
            if checkpoint and epoch + 1 < epochs:
                _write_checkpoint(Path(checkpoint), signature, model, optimiser, history)
    if not all(bool(p.isfinite().all()) for p in model.parameters()):
        raise TrainingError(f"{name}: the last steps left weights that are not finite; a smaller learning rate may help")
    model.eval()
    return history


def _check_recipe(recipe: Recipe) -> None:
    if not isinstance(recipe, Recipe):
        raise ValueError(f"recipe is {recipe!r}; allowed is a distill.Recipe, such as training.recipe('quick', 'mnist')")
    for name in ("nesterov", "one_cycle"):
        if not isinstance(getattr(recipe, name), bool):
            raise ValueError(f"{name} is {getattr(recipe, name)!r}; allowed are True and False")
    for name, low in (("epochs", 0), ("learning_rate", 0), ("momentum", -1), ("learning_rate_decay", -1), ("momentum_decay", -1)):
        value = getattr(recipe, name)
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not low < value < torch.finfo(torch.float32).max
            or -1 < value < 0
        ):
            raise ValueError(f"{name} is {value!r}; allowed is a finite number {'above 0' if low == 0 else 'from 0'}")
    for name in ("batch_size", "decay_every"):
        value = getattr(recipe, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; allowed is an integer above 0")
    if isinstance(recipe.dropout, bool) or not isinstance(recipe.dropout, int | float) or not 0 <= recipe.dropout < 1:
        raise ValueError(f"dropout is {recipe.dropout!r}; allowed is a number from 0 to below 1")
    if recipe.nesterov and recipe.optimiser == "adam":
        raise ValueError(f"nesterov is {recipe.nesterov!r}; allowed with the optimiser adam is False")


def _check_labels(model: nn.Module, x: Tensor, labels: Tensor) -> None:
    was_training, _ = model.training, model.eval()
    classes = models.trial(model, x[:8]).shape[1]
    model.train(was_training)
    hard = labels.dtype == torch.int64 and labels.ndim == 1 and labels.min() >= 0 and labels.max() < classes
    soft = labels.is_floating_point() and labels.shape == (len(x), classes) and bool((labels >= 0).all())
    soft = soft and bool(((labels.sum(1) - 1).abs() < 0.02).all())  # the paper's smoothed labels sum to 0.99
    if not (hard or soft):
        raise ValueError(f"labels must be int64 ({len(x)},), classes from 0 to {classes - 1}, or probabilities ({len(x)}, {classes})")


def _optimiser(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(model.parameters(), recipe.learning_rate, recipe.momentum, nesterov=recipe.nesterov, foreach=True)
    if recipe.optimiser == "adam":
        return torch.optim.Adam(model.parameters(), recipe.learning_rate, (recipe.momentum, 0.99), foreach=True)
    raise ValueError(f"optimiser is {recipe.optimiser!r}; allowed are sgd, adam")


def _set_rate(optimiser: torch.optim.Optimizer, recipe: Recipe, part: float, epoch: int) -> None:
    decays = epoch // recipe.decay_every
    rate = recipe.learning_rate * recipe.learning_rate_decay**decays
    if recipe.one_cycle:
        rate = recipe.learning_rate * (min(1.0, part / 0.2 + 0.01) if part < 0.2 else (1 - part) / 0.8)
    for group in optimiser.param_groups:
        group["lr"] = rate
        if recipe.optimiser == "sgd":
            group["momentum"] = recipe.momentum * recipe.momentum_decay**decays


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


# --- checkpoints: weights and optimiser state as safetensors, so that nothing is unpickled ---------------


def _check_untied(model: nn.Module) -> None:
    """Raise ``CheckpointError`` if two names of the network's state are one tensor, which a file would hold twice."""
    names: dict[tuple, str] = {}
    for name, tensor in model.state_dict().items():
        first = names.setdefault((tensor.device, tensor.data_ptr()) if tensor.numel() else (name,), name)
        if first != name:
            raise CheckpointError(f"{first} and {name} are tied weights, which a checkpoint cannot hold; allowed is checkpoint=None")


def _write_checkpoint(path: Path, signature: str, model: nn.Module, optimiser: torch.optim.Optimizer, history: list[dict]) -> None:
    tensors = {f"model.{key}": value.contiguous() for key, value in model.state_dict().items()}
    for index, state in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser.{index}.{key}": value.contiguous() for key, value in state.items() if value is not None}
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        metadata = {"signature": signature, "history": json.dumps(history)}
        save_file(tensors, part, {**metadata, "sha256": _seal(metadata, tensors)})
        os.replace(part, path)
    except (SafetensorError, OSError) as error:  # a full disk comes as the former
        part.unlink(missing_ok=True)
        raise CheckpointError(f"the checkpoint {path} cannot be written ({error})") from None


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def _seal(metadata: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """A hash of all that a checkpoint holds."""
    told = json.dumps([metadata.get("signature"), metadata.get("history"), sorted(tensors)])
    return hashlib.sha256((told + _digest(*(tensors[name] for name in sorted(tensors)))).encode()).hexdigest()


def _resume(checkpoint: str | os.PathLike, signature: str, model: nn.Module, optimiser: torch.optim.Optimizer) -> list[dict]:
    path = Path(checkpoint)
    if not path.exists():
        return []
    try:
        with safe_open(path, "pt") as stored:
            metadata = stored.metadata() or {}
            tensors = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as error:
        raise TrainingError(f"the checkpoint {path} cannot be read ({error}); remove it to train from the start") from None
    if metadata.get("sha256") != _seal(metadata, tensors):
        raise TrainingError(f"the checkpoint {path} is torn or altered; remove it to train from the start")
    if metadata.get("signature") != signature:
        raise TrainingError(f"the checkpoint {path} is of another training; remove it to train from the start")
    try:
        model.load_state_dict({key.removeprefix("model."): value for key, value in tensors.items() if key.startswith("model.")})
    except RuntimeError as error:
        why = " ".join(str(error).split())[:200]
        raise TrainingError(f"the checkpoint {path} is of another network ({why}); remove it to train from the start") from None
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimiser."):
            _, index, field = key.split(".", 2)
            state.setdefault(int(index), {})[field] = value
    optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    return json.loads(metadata["history"])
