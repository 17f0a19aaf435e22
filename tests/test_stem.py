"""The kept stem of a network gives what the whole network gives, after any change, or is not used."""

import threading

import pytest
import torch
from torch import nn

from distill import jsma, models
from distill.attacks import jsma as module
from distill.attacks.stem import Stem


def network(channels, *layers, size=(17, 19), dtype=torch.float64):
    """A network whose stem is ``layers``: (output channels, kernel, padding, whether a ReLU follows)."""
    torch.manual_seed(0)
    parts = []
    width = channels
    for out, kernel, padding, rectified in layers:
        parts += [nn.Conv2d(width, out, kernel, padding=padding), *([nn.ReLU()] if rectified else [])]
        width = out
    body = nn.Sequential(*parts, nn.MaxPool2d(2), nn.Tanh(), nn.Flatten())
    flat = body(torch.zeros(1, channels, *size)).shape[1]
    return nn.Sequential(body, nn.Linear(flat, 4)).eval().to(dtype).requires_grad_(False)


def expected(model, x, mixed):
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    return logits.detach(), torch.autograd.grad((logits * mixed).sum(), leaf)[0]


def found(stem, mixed):
    cut = stem.cut()
    logits = stem.rest(cut)
    return logits.detach(), stem.back(torch.autograd.grad((logits * mixed).sum(), cut)[0])


def same(stem, model, x):
    mixed = torch.linspace(-1, 2, 4, dtype=x.dtype)
    for one, other in zip(expected(model, x, mixed), found(stem, mixed), strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


STEMS = {
    "two layers": [(5, 3, 0, True), (4, 3, 0, False)],
    "padded": [(5, 3, 1, True), (9, 3, 1, True), (3, 3, 2, False)],
    "one layer": [(3, 5, 2, True)],
    "uneven": [(9, (1, 3), (0, 1), True), (2, (5, 2), (1, 0), False)],
    "no ReLU": [(3, 3, 0, False), (8, 1, 0, False)],
}


@pytest.mark.parametrize("channels", [1, 3, 9])
@pytest.mark.parametrize("layers", STEMS.values(), ids=STEMS)
def test_after_any_changes_all_is_as_if_computed_anew(layers, channels, monkeypatch):
    monkeypatch.setattr("distill.attacks.stem.SHARE", 10.0)  # whether it pays or not
    model = network(channels, *layers)
    x = torch.rand(6, channels, 17, 19, dtype=torch.float64)
    stem = Stem.find(model, x[:2])
    assert len(stem.layers) == len(layers)
    stem.fill(x)
    features = x[0].numel()
    generator = torch.Generator().manual_seed(1)
    corners = torch.tensor([[0, 18], [0, 1], [features - 1, 16 * 19], [18, 18 + 19], [features - 19, features - 1], [40, 41]])
    for step in range(12):
        chosen = corners if step == 0 else torch.randint(features, (len(x), 2), generator=generator)
        x = x.flatten(1).scatter(1, chosen, torch.rand(len(x), 2, dtype=x.dtype, generator=generator)).view_as(x)
        stem.move(x, chosen)
        if step == 4:
            x = x.index_copy(0, torch.tensor([1, 4]), torch.rand(2, *x.shape[1:], dtype=x.dtype))
            stem.replace(torch.tensor([4, 1]), x[[4, 1]])
        if step == 8:
            rows = torch.tensor([5, 0, 3])
            x = x[rows]
            stem.keep(rows)
        corners = corners[: len(x)]
        same(stem, model, x)


@pytest.mark.parametrize("per_step", [1, 2])
@pytest.mark.parametrize("output", module.OUTPUTS)
def test_attacks_are_the_same_with_and_without(output, per_step, monkeypatch):
    model = network(1, *STEMS["padded"][:2], dtype=torch.float32)
    x, targets = torch.rand(30, 1, 17, 19), torch.arange(30) % 4
    options = {"max_features": 40, "output": output, "features_per_step": per_step, "batch_size": 7, "trace": True, "precision": "float64"}
    stems = []
    find = Stem.find
    monkeypatch.setattr(Stem, "find", lambda *arguments: stems.append(find(*arguments)) or stems[-1])
    kept = jsma(model, x, targets, **options)
    assert len(stems) == 1 and stems[0].layers
    monkeypatch.setattr(Stem, "find", lambda *_: None)
    whole = jsma(model, x, targets, **options)
    assert kept.success.any() and kept.features_changed.unique().numel() > 3
    for name in ("adversarial", "success", "features_changed", "iterations", "status", "passes", "trace"):
        assert torch.equal(getattr(kept, name), getattr(whole, name)), name


def plain(first=None, *, channels=1, last=nn.Tanh):
    """A network of two convolutions on images of 20 x 20, which has a stem."""
    torch.manual_seed(3)
    first = first or nn.Conv2d(channels, 4, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), nn.Conv2d(4, 4, 3), last(), nn.Flatten(), nn.LazyLinear(3)).eval()


def ready(model, channels=1):
    model(torch.rand(2, channels, 20, 20))
    return model


def stem_of(model, channels=1):
    return Stem.find(ready(model, channels), torch.rand(2, channels, 20, 20))


class Own(nn.Module):
    """A network that is no sequence: it might do anything with the images."""

    def __init__(self):
        super().__init__()
        self.body = ready(plain())

    def forward(self, x):
        return self.body(x / 2 if x.max() > 1 else x)


def hooked(model):
    model[0].register_forward_hook(lambda module, inputs, output: output.clamp(max=0.6))
    return model


@pytest.mark.parametrize(
    "model",
    [
        Own(),
        hooked(plain()),
        hooked(nn.Sequential(plain(), nn.Identity())),
        plain(nn.Conv2d(1, 4, 3, stride=2)),
        plain(nn.Conv2d(1, 4, 3, dilation=2)),
        plain(nn.Conv2d(1, 4, 3, padding="same")),
        plain(nn.Conv2d(1, 4, 3, padding=1, padding_mode="circular")),
        plain(nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3))),
        plain(last=lambda: nn.Hardtanh(inplace=True)),
        torch.compile(plain(), backend="eager"),
    ],
    ids=["own forward", "hook", "hook, nested", "stride", "dilation", "same", "circular", "weight norm", "in place", "compiled"],
)  # fmt: skip
def test_not_used_where_it_is_not_plain_what_is_computed(model, monkeypatch):
    x, targets = torch.rand(5, 1, 20, 20), torch.arange(5) % 3
    whole = [id(module) for module in model.modules()], [set(vars(module)) for module in ready(model).modules()]
    assert Stem.find(model, x[:2]) is None
    kept = jsma(model, x, targets, max_features=20, value=2.0)
    monkeypatch.setattr(Stem, "find", lambda *_: None)
    assert torch.equal(kept.adversarial, jsma(model, x, targets, max_features=20, value=2.0).adversarial)
    assert whole == ([id(module) for module in model.modules()], [set(vars(module)) for module in model.modules()])


def test_not_used_where_windows_cover_much_of_the_image():
    net = models.build("mnist").eval()
    assert [layer.window for layer in Stem.find(net, torch.rand(2, 1, 28, 28)).layers] == [(3, 3), (5, 5)]
    small = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.LazyLinear(3)).eval()
    assert [layer.window for layer in Stem.find(small, torch.rand(2, 1, 12, 12)).layers] == [(3, 3)]
    assert Stem.find(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(3)), torch.rand(2, 1, 8, 8)) is None


def test_ends_before_a_module_that_was_changed(monkeypatch):
    model, x, targets = ready(plain()), torch.rand(5, 1, 20, 20), torch.arange(5) % 3
    forward = model[1].forward
    model[1].forward = lambda x: forward(x) * 1.5
    (layer,) = Stem.find(model, x[:2]).layers
    assert layer.weight is model[0].weight and not layer.rectified
    kept = jsma(model, x, targets, max_features=20)
    monkeypatch.setattr(Stem, "find", lambda *_: None)
    assert torch.equal(kept.adversarial, jsma(model, x, targets, max_features=20).adversarial) and "forward" in vars(model[1])


def test_sizes_are_those_of_the_weights_and_paddings_those_that_torch_takes():
    model = ready(plain())
    model[0].kernel_size = 7  # which nothing reads after the weights were made
    assert Stem.find(model, torch.rand(2, 1, 20, 20)).layers[0].kernel == (3, 3)
    model[0].padding = 1
    assert Stem.find(model, torch.rand(2, 1, 20, 20)) is None


def test_a_callers_autocast_changes_nothing():
    model, x, targets = ready(plain(channels=9), 9), torch.rand(4, 9, 20, 20), torch.arange(4) % 3
    alone = jsma(model, x, targets, max_features=20)
    with torch.autocast("cpu", torch.bfloat16):
        within = jsma(model, x, targets, max_features=20)
    assert torch.equal(alone.adversarial, within.adversarial) and torch.equal(alone.success, within.success)


class Noise(nn.Module):
    def forward(self, x):
        return x + 1e-9 * torch.rand_like(x)


def test_the_trial_draws_no_random_numbers():
    model = ready(plain(last=Noise))
    torch.manual_seed(5)
    expected_number = torch.rand(1)
    torch.manual_seed(5)
    assert Stem.find(model, torch.zeros(2, 1, 20, 20)) is not None
    assert torch.equal(torch.rand(1), expected_number)


def test_one_network_in_two_threads():
    model, x, targets = ready(plain()), torch.rand(6, 1, 20, 20), torch.arange(6) % 3
    alone = jsma(model, x, targets, max_features=20).adversarial
    logits, seen = model(x), []

    def attack():
        seen.append(jsma(model, x, targets, max_features=20).adversarial)

    threads = [threading.Thread(target=attack) for _ in range(2)]
    for thread in threads:
        thread.start()
    same_logits = [torch.equal(model(x), logits) for _ in range(50)]
    for thread in threads:
        thread.join()
    assert all(same_logits) and len(seen) == 2 and all(torch.equal(one, alone) for one in seen)


def test_an_overflow_stays_where_it_is():
    """In the padding there is nothing, and not zero times infinity."""
    layer = plain(nn.Conv2d(1, 4, 3, padding=1))[0]
    with torch.no_grad():
        layer.weight.abs_()
    (found,) = Stem.find(ready(nn.Sequential(layer, nn.Flatten(), nn.LazyLinear(3))), torch.rand(2, 1, 20, 20)).layers
    below = torch.full((1, 20, 20, 1), torch.inf)
    found.kept = found(torch.zeros(1, 20, 20, 1))
    found.renew(below, torch.tensor([[-1]]), torch.tensor([[-1]]))
    whole = found(below)
    assert (whole[0, :3, :3] == torch.inf).all() and (found.kept[0, :3, :3] == torch.inf).all()
