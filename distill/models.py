"""The two networks of Table I. A model returns logits, never probabilities."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

# input channels and size, widths of the two convolution blocks and of the hidden layers, features after the blocks
ARCHITECTURES = {
    "mnist": (1, 28, 32, 64, 200, 64 * 4 * 4),
    "cifar10": (3, 32, 64, 128, 256, 128 * 5 * 5),
}
PADDINGS = {"valid": 0, "same": 1}
INITIALISATIONS = ("glorot", "torch")


class Network(nn.Module):
    """Two blocks of two 3x3 convolutions and a 2x2 max-pool, two hidden layers, ten logits (Table I).

    Attributes
    ----------
    features : nn.Sequential
        (N, C, H, W) to (N, F): everything up to the last hidden layer.
    last : nn.Linear
        (N, F) to (N, 10) logits.
    """

    def __init__(self, channels: int, first: int, second: int, hidden: int, flat: int, dropout: float, padding: str = "valid") -> None:
        super().__init__()
        conv = functools.partial(nn.Conv2d, kernel_size=3, padding=PADDINGS[padding])
        self.features = nn.Sequential(
            conv(channels, first), nn.ReLU(),
            conv(first, first), nn.MaxPool2d(2), nn.ReLU(),  # max(relu) = relu(max), on a quarter of the data
            conv(first, second), nn.ReLU(),
            conv(second, second), nn.MaxPool2d(2), nn.ReLU(),
            nn.Flatten(),
            nn.Linear(flat, hidden), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(hidden, hidden), nn.ReLU(), nn.Dropout(dropout),
        )  # fmt: skip
        self.last = nn.Linear(hidden, 10)

    def forward(self, x: Tensor) -> Tensor:
        features = self.features(x)
        with torch.autocast(x.device.type, enabled=False):  # the logits keep the weights' own precision
            return self.last(features.to(self.last.weight.dtype))


@torch.no_grad()
def trial(model: nn.Module, images: Tensor, *, probabilities: bool = False) -> Tensor:
    """Logits of a few images, checked: what every user of a model relies on.

    Parameters
    ----------
    model : nn.Module
        In evaluation mode.
    images : Tensor
        Floating point (N, ...), a handful.
    probabilities : bool
        Let a model pass that returns probabilities.

    Returns
    -------
    Tensor
        (N, classes), finite.

    Raises
    ------
    ValueError
        If the model cannot take such images, changes them, or returns probabilities or anything else but logits of two classes or more.
    """
    if torch.is_inference_mode_enabled():
        raise ValueError("the model is to be differentiated; call this outside torch.inference_mode()")
    try:
        logits = model(given := images.clone())
    except (RuntimeError, IndexError) as error:  # of whatever layer the images do not fit
        why = str(error).partition("\n")[0]
        raise ValueError(f"the model cannot take images of shape {tuple(images.shape[1:])} in {images.dtype}: {why}") from None
    if given._version:  # a caller's images would change from call to call
        raise ValueError("the model changes its images in place; allowed is a model that leaves them as they are")
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2:
        raise ValueError("the model must map (N, ...) to finite logits of shape (N, classes), with two classes or more")
    if not bool(logits.isfinite().all()):
        raise ValueError("the model's logits are not finite for some images; allowed is a model with finite logits")
    if len(images) and not probabilities and bool((logits >= 0).all() & ((logits.sum(1) - 1).abs() < 1e-4).all()):
        raise ValueError("the model returns probabilities; allowed is a model that returns logits")
    return logits


def build(architecture: str, *, dropout: float = 0.5, padding: str = "valid", initialisation: str = "glorot") -> nn.Module:
    """Build a network of Table I, unless told otherwise with Lasagne's defaults: unpadded convolutions, Glorot-uniform weights, zero biases.

    Parameters
    ----------
    architecture : {"mnist", "cifar10"}
        312,202 parameters for inputs of shape (1, 28, 28); 1,147,978 for (3, 32, 32).
    dropout : float
        Probability of dropping a unit after each of the two hidden layers (Table II: 0.5).
    padding : {"valid", "same"}
        Of the convolutions, which the paper leaves open. "same" makes the first hidden layer larger.
    initialisation : {"glorot", "torch"}
        Of the weights, which the paper leaves open. "torch" is PyTorch's default: smaller weights, and random biases.

    Returns
    -------
    nn.Module
        Maps (N, C, H, W) to logits (N, 10). Weights are drawn from torch's global generator.

    Raises
    ------
    ValueError
        If the architecture, the padding or the initialisation is unknown.
    """
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}: known are {', '.join(ARCHITECTURES)}")
    for what, value, allowed in (("padding", padding, PADDINGS), ("initialisation", initialisation, INITIALISATIONS)):
        if value not in allowed:
            raise ValueError(f"{what} is {value!r}; allowed are {', '.join(allowed)}")
    channels, size, first, second, hidden, flat = ARCHITECTURES[architecture]
    if padding == "same":
        flat = second * (size // 4) ** 2
    model = Network(channels, first, second, hidden, flat, dropout, padding)
    for layer in model.modules() if initialisation == "glorot" else ():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return model.to(memory_format=torch.channels_last)  # the faster layout on CPU and CUDA
