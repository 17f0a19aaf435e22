"""Flags on models built to raise them, and none on a good one."""

import importlib.util

import pytest
import torch
from torch import nn

from distill.checks import EXPLANATIONS, diagnose

pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("adv_lib", "torchattacks")), reason="adv-lib or torchattacks is not installed"
)


class Linear(nn.Module):
    """Four classes, each the brightness of a quarter of the image, between which boundaries lie at a known distance."""

    def __init__(self, scale=10.0):
        super().__init__()
        self.weight = nn.Parameter(torch.eye(4).repeat_interleave(16, 1) / 16)
        self.scale = scale

    def forward(self, x):
        return self.scale * (x.flatten(1) @ self.weight.T)


class Noisy(Linear):
    """Logits that differ from pass to pass."""

    def forward(self, x):
        z = super().forward(x)
        return z + 0.01 * torch.randn_like(z)


class Probabilities(Linear):
    """A softmax within the model."""

    def forward(self, x):
        return super().forward(x).softmax(1)


class Staircase(Linear):
    """The input in a few steps: no gradient anywhere."""

    def forward(self, x):
        return super().forward((x * 10).round() / 10)


class Twisted(torch.autograd.Function):
    """The identity, with a gradient that points the wrong way where ``wrong`` says so."""

    @staticmethod
    def forward(context, x, wrong):
        context.save_for_backward(wrong)
        return x.clone()

    @staticmethod
    def backward(context, gradient):
        (wrong,) = context.saved_tensors
        return torch.where(wrong, -gradient, gradient), None


class Backwards(Linear):
    """Gradients of the wrong sign."""

    def forward(self, x):
        return super().forward(Twisted.apply(x, torch.ones_like(x, dtype=torch.bool)))


class Misleading(Linear):
    """Right gradients at images of 8 bits, wrong ones everywhere else: after the first step the way is lost."""

    def forward(self, x):
        eighth_bits = (x * 256 == (x * 256).round()).flatten(1).all(1).view(-1, 1, 1, 1)
        return super().forward(Twisted.apply(x, ~eighth_bits.expand_as(x)))


def images(gap=0.12, n=24):
    """Images whose own quarter is brighter than the others, by as much as a Linf radius of about half the gap undoes."""
    y = torch.arange(n) % 4
    gaps = gap * torch.linspace(0.5, 1.5, n)
    base = torch.full((n, 4), 0.4).scatter(1, y[:, None], (0.4 + gaps)[:, None])
    x = base.repeat_interleave(16, 1) + 0.02 * torch.rand(n, 64, generator=torch.Generator().manual_seed(0))
    return (x * 256).round().div(256).view(n, 1, 8, 8), y


def raised(model, **options):
    x, y = images()
    flags = diagnose(model, x, y, **{"radius": 0.07, "queries": 200, "steps": 20} | options)
    assert {flag.name for flag in flags} <= set(EXPLANATIONS)
    assert all("\n" not in flag.message and flag.message for flag in flags)
    return {flag.name: flag for flag in flags}


def test_a_good_model_raises_nothing():
    assert raised(Linear(), surrogate=Linear(scale=3.0)) == {}


def test_logits_a_thousandfold_are_seen_and_the_temperature_mends_them():
    found = raised(Linear(scale=10_000.0))
    assert found["ZERO_GRADIENT"].numbers["share"] == 1.0
    assert found["SCALE_DEPENDENT"].numbers["rate"] > found["SCALE_DEPENDENT"].numbers["compared_with"] == 0.0
    assert found["SCALE_DEPENDENT"].numbers["divisor"] in (100, 1000)
    assert found["BUDGET_DOES_NOT_HELP"].numbers["rate"] == 0.0
    assert raised(Linear(scale=10_000.0), temperature=1000.0) == {}


def test_a_staircase_has_no_gradient_and_loses_to_the_square_attack():
    found = raised(Staircase())
    assert {"ZERO_GRADIENT", "GRADIENT_FREE_WINS", "BUDGET_DOES_NOT_HELP"} <= set(found)
    assert "SCALE_DEPENDENT" not in found  # dividing the logits gives it none


def test_gradients_of_the_wrong_sign_lose_to_everything():
    found = raised(Backwards(), radius=0.1, surrogate=Linear())
    assert {"GRADIENT_FREE_WINS", "TRANSFER_WINS", "BUDGET_DOES_NOT_HELP"} <= set(found)
    assert "ZERO_GRADIENT" not in found
    assert "TRANSFER_WINS" not in raised(Backwards(), radius=0.1)  # no surrogate, no such check


def test_one_step_wins_where_only_the_first_gradient_is_right():
    found = raised(Misleading(), radius=0.1)
    assert found["ONE_STEP_WINS"].numbers["rate"] > found["ONE_STEP_WINS"].numbers["compared_with"]
    assert "ONE_STEP_WINS" not in raised(Backwards(), radius=0.1)


def test_random_wins_where_noise_is_enough_and_gradients_lead_back():
    model, (x, y) = Backwards(), images(gap=0.08, n=60)
    names = [flag.name for flag in diagnose(model, x, y, radius=0.25, queries=50, steps=20)]
    assert "RANDOM_WINS" in names


def test_outputs_that_are_not_logits_or_not_fixed():
    assert list(raised(Probabilities())) == ["NOT_LOGITS"]
    assert raised(Noisy())["RANDOMIZED"].numbers["share"] == 1.0


def test_images_that_the_model_gets_wrong_say_nothing():
    x, y = images()
    with pytest.raises(ValueError, match="none of the images right"):
        diagnose(Linear(), x, (y + 1) % 4)
    with pytest.raises(ValueError, match=r"divisors is \(\); allowed is a sequence"):
        diagnose(Linear(), x, y, divisors=())
    mixed = torch.cat([y[:20], (y[20:] + 1) % 4])
    assert diagnose(Linear(), x, mixed, radius=0.07, queries=200, steps=20) == []


def test_the_model_is_left_as_it_was():
    model = Linear().train()
    raised(model, surrogate=Linear())
    assert model.training and model.weight.requires_grad and model.weight.grad is None


def test_every_flag_is_explained():
    assert len(EXPLANATIONS) == 9
    for name, explanation in EXPLANATIONS.items():
        assert name == name.upper() and all(explanation)
