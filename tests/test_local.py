"""The kept head of a network gives what the whole network gives, after any change, or is not used."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill import jsma, models
from distill.attacks import jsma as module
from distill.attacks.local import Head


def network(channels, *layers, size=(17, 19), dtype=torch.float64):
    """A network whose head is ``layers``: (output channels, kernel, padding, whether a ReLU follows)."""
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


def found(head, model, x, mixed):
    cut = head.cut()
    logits = head.rest(model, x, cut)
    return logits.detach(), head.back(torch.autograd.grad((logits * mixed).sum(), cut)[0])


def same(head, model, x):
    mixed = torch.linspace(-1, 2, 4, dtype=x.dtype)
    for one, other in zip(expected(model, x, mixed), found(head, model, x, mixed), strict=True):
        assert torch.allclose(one, other, rtol=1e-10, atol=1e-12)


HEADS = {
    "two layers": [(5, 3, 0, True), (4, 3, 0, False)],
    "padded": [(5, 3, 1, True), (9, 3, 1, True), (3, 3, 2, False)],
    "one layer": [(3, 5, 2, True)],
    "uneven": [(9, (1, 3), (0, 1), True), (2, (5, 2), (1, 0), False)],
    "no ReLU": [(3, 3, 0, False), (8, 1, 0, False)],
}


@pytest.mark.parametrize("channels", [1, 3, 9])
@pytest.mark.parametrize("layers", HEADS.values(), ids=HEADS)
def test_after_any_changes_all_is_as_if_computed_anew(layers, channels, monkeypatch):
    monkeypatch.setattr("distill.attacks.local.SHARE", 10.0)  # whether it pays or not
    model = network(channels, *layers)
    x = torch.rand(6, channels, 17, 19, dtype=torch.float64)
    head = Head.find(model, x[:2])
    assert len(head.layers) == len(layers)
    head.fill(x)
    features = x[0].numel()
    generator = torch.Generator().manual_seed(1)
    corners = torch.tensor([[0, 18], [0, 1], [features - 1, 16 * 19], [18, 18 + 19], [features - 19, features - 1], [40, 41]])
    for step in range(12):
        chosen = corners if step == 0 else torch.randint(features, (len(x), 2), generator=generator)
        x = x.flatten(1).scatter(1, chosen, torch.rand(len(x), 2, dtype=x.dtype, generator=generator)).view_as(x)
        head.move(x, chosen)
        if step == 4:
            x = x.index_copy(0, torch.tensor([1, 4]), torch.rand(2, *x.shape[1:], dtype=x.dtype))
            head.replace(torch.tensor([4, 1]), x[[4, 1]])
        if step == 8:
            rows = torch.tensor([5, 0, 3])
            x = x[rows]
            head.keep(rows)
        corners = corners[: len(x)]
        same(head, model, x)


@pytest.mark.parametrize("per_step", [1, 2])
@pytest.mark.parametrize("output", module.OUTPUTS)
def test_attacks_are_the_same_with_and_without(output, per_step, monkeypatch):
    model = network(1, *HEADS["padded"][:2], dtype=torch.float32)
    x, targets = torch.rand(30, 1, 17, 19), torch.arange(30) % 4
    options = {"max_features": 40, "output": output, "features_per_step": per_step, "batch_size": 7, "trace": True, "precision": "float64"}
    heads = []
    find = Head.find
    monkeypatch.setattr(Head, "find", lambda *arguments: heads.append(find(*arguments)) or heads[-1])
    kept = jsma(model, x, targets, **options)
    assert len(heads) == 1 and heads[0].layers
    monkeypatch.setattr(Head, "find", lambda *_: None)
    whole = jsma(model, x, targets, **options)
    assert kept.success.any() and kept.features_changed.unique().numel() > 3
    for name in ("adversarial", "success", "features_changed", "iterations", "status", "passes", "trace"):
        assert torch.equal(getattr(kept, name), getattr(whole, name)), name


class Custom(nn.Module):
    """A network of one convolution and whatever ``body`` makes of it."""

    def __init__(self, body):
        super().__init__()
        self.first, self.relu, self.second = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1)
        self.last, self.body = nn.Linear(4 * 20 * 20, 3), body

    def forward(self, x):
        return self.last(self.body(self, x).flatten(1))


def of(body):
    torch.manual_seed(3)
    model = Custom(body).eval().requires_grad_(False)
    return model, Head.find(model, torch.rand(2, 1, 20, 20))


@pytest.mark.parametrize(
    "body",
    [
        lambda net, x: net.first(x) + x,
        lambda net, x: net.second(net.relu(net.first(x))) * (1 + x.mean().detach()),
        lambda net, x: (h := net.relu(net.first(x))) + net.second(h),
        lambda net, x: net.second(net.second(net.first(x))) if x.isfinite().all() else net.missing,
        lambda net, x: net.first(x + 0.5),
        lambda net, x: net.first(x).relu_(),
    ],
    ids=[
        "images used again",
        "images used in secret",
        "hidden layer used again",
        "looks at the images",
        "images changed before",
        "in place",
    ],
)
def test_not_used_where_the_head_cannot_be_replaced(body):
    model, head = of(body)
    assert head is None
    assert not any("forward" in vars(part) or part._forward_hooks for part in model.modules())
    targets = torch.arange(4) % 3
    assert jsma(model, torch.rand(4, 1, 20, 20), targets, max_features=10).passes.min() > 0


def test_ends_where_it_is_no_longer_known_what_happens():
    model, head = of(lambda net, x: net.second(F.leaky_relu(net.first(x))))
    assert head.modules == [model.first]
    model, head = of(lambda net, x: net.second(net.second(net.relu(net.first(x)))))
    assert head.modules == [model.first, model.relu]  # the second is used twice
    for change in ({"stride": 2}, {"dilation": 2}, {"padding": "same"}, {"padding": 1, "padding_mode": "circular"}):
        assert Head.find(nn.Sequential(nn.Conv2d(1, 2, 3, **change), nn.Flatten(), nn.LazyLinear(3)), torch.rand(2, 1, 20, 20)) is None
    assert Head.find(nn.Linear(9, 3), torch.rand(2, 9)) is None


def test_not_used_where_windows_cover_much_of_the_image():
    net = models.build("mnist").eval()
    assert [layer.window for layer in Head.find(net, torch.rand(2, 1, 28, 28)).layers] == [(3, 3), (5, 5)]
    small = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.LazyLinear(3)).eval()
    assert [layer.window for layer in Head.find(small, torch.rand(2, 1, 12, 12)).layers] == [(3, 3)]
    assert Head.find(nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(3)), torch.rand(2, 1, 8, 8)) is None


def test_the_model_is_as_it_was_when_it_fails():
    model = models.build("mnist").eval()
    head = Head.find(model, torch.rand(2, 1, 28, 28))
    with pytest.raises(RuntimeError):
        head.rest(model, torch.rand(2, 1, 28, 28), torch.rand(2, 1, 3, 3))
    assert not any("forward" in vars(part) or part._forward_hooks for part in model.modules())
