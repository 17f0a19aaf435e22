"""Published attacks against linear models, whose nearest other class is known in closed form."""

import importlib
import importlib.util
import json
import math
import sys

import numpy as np
import pytest
import torch
from torch import nn

from distill import data
from distill.attacks.adapters import _lent
from distill.attacks.others import ATTACKS, Pixels, attack

PACKAGES = {"adv-lib": "adv_lib", "foolbox": "foolbox", "torchattacks": "torchattacks"}
FEATURES, N = 36, 24
UNBOUNDED = ("carlini_wagner_l2", "ddn", "fmn_l0", "fmn_l1", "fmn_l2", "fmn_linf", "sigma_zero", "hop_skip_jump")
QUICK = [name for name in ATTACKS if name != "transfer"]


def options(name):
    """What an attack needs beyond its images, and few steps."""
    out = {"radius": 0.05} if name in ("fgsm", "pgd", "fgsm_dl", "pgd_dl", "apgd_ce", "apgd_dlr", "square", "random") else {}
    return out | {
        "steps": {
            "fgsm": 1,
            "fgsm_dl": 1,
            "random": 1,
            "hop_skip_jump": 3,
            "square": 100,
            "pgd": 40,
            "pgd_dl": 40,
            "apgd_ce": 40,
            "apgd_dlr": 40,
        }.get(name, 100)
    }


def there(library):
    return not library or importlib.util.find_spec(PACKAGES[library]) is not None


needs_adv_lib = pytest.mark.skipif(not there("adv-lib"), reason="adv-lib is not installed")


@pytest.fixture(autouse=True)
def _installed(request):
    """Skip the tests of attacks whose library is not here."""
    name = request.node.callspec.params.get("name") if hasattr(request.node, "callspec") else None
    if name in ATTACKS and not there(ATTACKS[name].library):
        pytest.skip(f"{ATTACKS[name].library} is not installed")


class Linear(nn.Module):
    """Logits W x + b, times a scale."""

    def __init__(self, classes, scale=1.0, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(classes, FEATURES, generator=generator))
        self.bias = nn.Parameter(-self.weight.detach().sum(1) / 2)  # boundaries meet at the middle of the box
        self.scale = scale

    def forward(self, x):
        return self.scale * (x.flatten(1) @ self.weight.T + self.bias)

    def margins(self, x, y):
        """Per other class: the logit gap (N, K), infinite for the own class, and the boundary's normal (N, K, features)."""
        z = x.flatten(1) @ self.weight.T + self.bias
        gap = (z.gather(1, y[:, None]) - z).detach()
        return gap.scatter(1, y[:, None], math.inf), (self.weight[y][:, None] - self.weight[None]).detach()

    def distance(self, x, y, dual):
        """To the nearest other class: gap / ||normal||, in the dual norm of the distance's."""
        gap, normal = self.margins(x, y)
        return (gap / normal.norm(dual, 2)).amin(1)


def problem(classes=4, scale=1.0, distance=0.1):
    """A linear model with images at about this L2 distance from the nearest other class, far from the ends of the box."""
    model = Linear(classes, scale)
    generator = torch.Generator().manual_seed(1)
    y = torch.arange(N) % classes
    inwards = model.weight.detach()[y] - model.weight.detach().mean(0) + 0.5 * torch.randn(N, FEATURES, generator=generator)
    inwards /= model.distance(inwards + 0.5, y, 2)[:, None]  # logits are linear in x - 0.5
    x = 0.5 + distance * (0.7 + 0.6 * torch.rand(N, 1, generator=generator)) * inwards
    assert x.min() > 0 and x.max() < 1 and torch.equal(model(x).argmax(1), y)
    return model, x.view(N, 1, 6, 6), y


@pytest.mark.parametrize(
    ("name", "steps", "dual", "distance", "excess"),
    [
        ("ddn", 150, 2, "l2", 0.02),
        ("fmn_l2", 150, 2, "l2", 0.02),
        ("carlini_wagner_l2", 100, 2, "l2", 0.05),
        ("hop_skip_jump", 15, 2, "l2", 0.4),
        ("fmn_linf", 150, 1, "linf", 0.03),
        ("fmn_l1", 300, math.inf, "l1", 0.1),
    ],
)
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_minimal_distances_are_those_to_the_hyperplane(name, steps, dual, distance, excess, scale):
    model, x, y = problem(classes=2 if name == "ddn" else 4, scale=scale)  # the cross-entropy looks at all classes
    found = attack(name, model, x, y, steps=steps, temperature=scale)
    ratio = getattr(found, distance) / model.distance(x, y, dual)
    assert found.success.all()
    assert ratio.min() >= 1 - 1e-3  # nothing is nearer than the boundary
    assert ratio.mean() <= 1 + excess


def fewest_features(model, x, y):
    """Two classes: the largest gains first, each feature moved to the end of the box that helps."""
    gap, normal = model.margins(x, y)
    other = 1 - y
    n = normal[torch.arange(N), other]
    gain = torch.where(n > 0, n * x.flatten(1), -n * (1 - x.flatten(1))).sort(1, descending=True).values
    return (gain.cumsum(1) < gap.gather(1, other[:, None])).sum(1) + 1


@pytest.mark.parametrize("name", ["fmn_l0", "sigma_zero"])
def test_l0_attacks_come_near_the_fewest_features(name):
    model, x, y = problem(classes=2, distance=0.6)  # far enough that several features are needed
    fewest = fewest_features(model, x, y)
    found = attack(name, model, x, y, steps=200)
    assert fewest.max() > 2
    assert found.success.all()
    assert (found.features >= fewest).all()
    assert (found.features - fewest).float().mean() <= 0.5
    assert torch.equal(found.pixels, found.features)  # one channel


@pytest.mark.parametrize("name", ["fgsm", "pgd", "fgsm_dl", "pgd_dl", "apgd_ce", "apgd_dlr"])
def test_within_a_radius_success_flips_at_the_closed_form(name):
    model, x, y = problem(classes=4 if name == "apgd_dlr" else 2)  # the cross-entropy looks at all classes
    nearest = model.distance(x, y, 1)
    for row in range(6):
        one, label = x[row : row + 1], y[row : row + 1]
        below, above = (attack(name, model, one, label, radius=nearest[row].item() * factor, steps=50) for factor in (0.99, 1.05))
        assert not below.success.any() and above.success.all()
        assert above.linf[0] == pytest.approx(nearest[row].item() * 1.05, rel=1e-4)


@pytest.mark.parametrize("name", ["fgsm", "pgd", "apgd_ce"])
def test_logits_a_hundredfold_blind_the_cross_entropy_and_the_temperature_mends_it(name):
    plain, x, y = problem(classes=2, distance=0.4)  # gaps of 2 and more: a hundredfold, exp(-gap) underflows all around
    large = problem(classes=2, scale=100.0, distance=0.4)[0]
    leaf = x.clone().requires_grad_()
    assert (torch.autograd.grad(nn.functional.cross_entropy(large(leaf), y, reduction="sum"), leaf)[0] == 0).all()
    radius = plain.distance(x, y, 1).max().item() * 1.05
    before, naive, mended = (
        attack(name, model, x, y, temperature=at, radius=radius) for model, at in ((plain, 1.0), (large, 1.0), (large, 100.0))
    )
    assert before.success.all() and mended.success.all()
    assert torch.allclose(before.adversarial, mended.adversarial, atol=1e-3)
    assert not naive.success.any()


@pytest.mark.parametrize("name", ["fgsm_dl", "pgd_dl", "apgd_dlr", "fmn_l0", "fmn_l2", "square", "hop_skip_jump"])
def test_attacks_that_compare_logits_do_not_see_their_scale(name):
    (plain, x, y), (large, _, _) = problem(), problem(scale=128.0)  # a power of two, so that arithmetic is the same
    assert ATTACKS[name].scale_free
    first, second = (attack(name, model, x, y, **options(name)) for model in (plain, large))
    assert first.success.any()
    assert torch.equal(first.success, second.success)
    assert torch.allclose(first.l2, second.l2, rtol=0.05)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(6 * 16, 5))
    x = torch.rand(12, 2, 6, 6).mul(255).round().div(255)
    with torch.no_grad():
        y = model.eval()(x).argmax(1)
        model[4].bias -= model(x).mean(0)  # so that several classes occur
        y = model(x).argmax(1)
    assert len(y.unique()) > 2
    return model, x, y


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.parametrize("targeted", [False, True])
def test_what_is_returned_is_what_the_model_and_the_images_say(name, targeted, network):
    model, x, y = network
    y = y.clone()
    y[0] = (y[0] + 1) % 5  # one image that the model gets wrong
    targets = (y + torch.arange(len(y)) % 3 + 1) % 5 if targeted else None
    if targeted and name == "sigma_zero":
        with pytest.raises(ValueError, match="takes no targets"):
            attack(name, model, x, y, targets=targets)
        return
    if targeted:
        targets[1] = y[1]  # and one that has its target already
    model.train()
    state = torch.get_rng_state()
    found = attack(name, model, x, y, targets=targets, **options(name))
    assert torch.equal(torch.get_rng_state(), state) and model.training and next(model.parameters()).requires_grad
    model.eval()
    with torch.no_grad():
        classes, clean = model(found.adversarial).argmax(1), model(x).argmax(1)
    assert torch.equal(found.success, classes == targets if targeted else classes != y)
    assert found.success.any()
    done = clean == targets if targeted else clean != y
    assert done.any() and torch.equal(found.adversarial[done], x[done]) and (found.l2[done] == 0).all()
    assert found.adversarial.min() >= 0 and found.adversarial.max() <= 1
    moved = (found.adversarial - x).numpy()
    assert np.array_equal(found.features, [np.count_nonzero(m) for m in moved])
    assert np.array_equal(found.pixels, [np.count_nonzero(np.abs(m).sum(0)) for m in moved])
    assert np.allclose(found.l1, [np.abs(m).sum() for m in moved], rtol=1e-4)
    assert np.allclose(found.l2, [np.sqrt((m.astype(float) ** 2).sum()) for m in moved], rtol=1e-4)
    assert np.array_equal(found.linf, [np.abs(m).max() for m in moved])
    if "radius" in options(name):
        assert found.linf.max() <= 0.05 + 1e-6
    if name not in UNBOUNDED:
        return
    again = attack(name, model, x, y, targets=targets, **options(name))
    assert torch.equal(again.adversarial, found.adversarial)  # the same seed


@pytest.mark.parametrize("name", ATTACKS)
def test_images_that_have_the_class_from_the_start_are_returned_as_they_are(name):
    network, x = Linear(4), torch.rand(3, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    wrong = (network(x).argmax(1) + 1) % 4
    given = options(name) | ({"surrogate": Linear(4, seed=1)} if name == "transfer" else {})
    found = attack(name, network, x, wrong, **given)
    assert found.success.all() and torch.equal(found.adversarial, x) and found.passes == 0


def test_random_features_are_set_as_the_jsma_sets_them():
    model, x, y = problem(classes=2)
    x = x * 4 - 1.5  # values outside [0, 1] are allowed here
    y = model(x).argmax(1)
    x[:, 0, 0] = 3.0  # beyond the value: not usable
    found = attack("random", model, x, y, max_features=7, value=2.0)
    attacked = found.features > 0
    assert attacked.any() and (found.features[attacked] == 7).all()
    assert (found.adversarial[found.adversarial != x] == 2.0).all()
    most = attack("random", model, x, y, max_features=36, value=2.0)
    assert most.features.max() == 30
    one, many = (attack("random", model, x, y, max_features=7, value=2.0, steps=steps).success.sum() for steps in (1, 50))
    assert many > one


class Masked(nn.Module):
    """The same classes, with a gradient of zero."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.detach()) + x.flatten(1) @ torch.zeros(FEATURES, 1)


@needs_adv_lib
def test_transfer_sees_the_surrogate_only():
    model, x, y = problem()
    assert not attack("pgd", Masked(model), x, y, radius=0.05, random_start=False).success.any()
    found = attack("transfer", Masked(model), x, y, surrogate=model, confidences=(5, 0))
    assert found.success.all()
    near = attack("transfer", Masked(model), x, y, surrogate=model, confidences=(0,))
    far = attack("transfer", Masked(model), x, y, surrogate=model, confidences=(5,))
    gap = [model.margins(r.adversarial, y)[0].amin(1) for r in (near, far)]
    assert (gap[1] <= -5 + 1e-3).all() and gap[0].mean() > -1  # the confidence is the surrogate's logit gap
    assert torch.equal(found.adversarial[near.success], near.adversarial[near.success])  # the smallest that suffices


@needs_adv_lib
def test_pixels_measures_standardised_images_on_the_scale_of_pixels():
    mean, deviation = torch.rand(1, 6, 6), torch.rand(1, 6, 6) + 0.2
    model, pixels, y = problem(classes=2)
    inner = nn.Sequential(Pixels(nn.Identity(), -mean / deviation, 1 / deviation), model)  # undoes the standardising
    wrapped, standardised = Pixels(inner, mean, deviation), (pixels - mean) / deviation
    assert torch.allclose(wrapped.images(standardised), pixels, atol=1e-6)
    assert torch.allclose(wrapped(pixels), model(pixels), atol=1e-4)
    found = attack("ddn", wrapped, wrapped.images(standardised), y, steps=300)
    assert (found.l2 / model.distance(pixels, y, 2)).mean() == pytest.approx(1, abs=0.02)
    with pytest.raises(ValueError, match="allowed are numbers above 0"):
        Pixels(model, mean, deviation * 0)
    with pytest.raises(ValueError, match=r"through others\.Pixels"):
        attack("ddn", model, standardised, y)


@pytest.mark.parametrize("by", ["feature", "channel"])
def test_standardisation_is_what_load_does(by, tmp_path, monkeypatch):
    pixels = np.random.default_rng(1).integers(0, 256, (50, 3, 32, 32), np.uint8)
    path = tmp_path / "train"
    path.write_bytes(data.encode_idx(pixels))
    monkeypatch.setattr(data, "fetch", lambda spec, root=None: ([path], "", []))
    wrapped = Pixels(nn.Identity(), *data.standardisation("cifar10", standardised_by=by))
    x = data._standardised(pixels, path, True, by)
    assert torch.allclose(wrapped(torch.from_numpy(pixels / np.float32(255))), x, atol=1e-5)
    assert torch.equal(wrapped.images(x).mul(255).round().byte(), torch.from_numpy(pixels))
    plain = Pixels(nn.Identity(), *data.standardisation("mnist"))
    assert torch.equal(plain(x), x)
    with pytest.raises(ValueError, match="allowed are feature, channel"):
        data.standardisation("cifar10", standardised_by="pixel")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": "deepfool"}, "allowed are fgsm, pgd"),
        ({"steps": 0}, "steps is 0"),
        ({"temperature": 0.0}, "above 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"radius": -1.0}, "radius is -1.0"),
        ({"images": torch.rand(2, 36)}, r"\(N, C, H, W\)"),
        ({"images": torch.full((2, 1, 6, 6), math.nan)}, "not finite"),
        ({"images": torch.full((2, 1, 6, 6), 1.5)}, r"must lie in \[0, 1\]"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels must be"),
        ({"targets": torch.zeros(2)}, "targets must be"),
        ({"colour": 1}, "no option 'colour'; allowed are radius, random_start"),
        ({"name": "fgsm", "radius": None}, "radius is None"),
        ({"name": "random", "radius": 0.1, "max_features": 3, "value": 1.0}, "either radius, or"),
        ({"name": "random", "max_features": 37, "value": 1.0, "radius": None}, "from 1 to 36"),
        ({"name": "carlini_wagner_l2", "steps": 5, "radius": "drop"}, "from 10"),
        ({"name": "pgd", "radius": "drop"}, "needs the option 'radius'"),
        ({"name": "transfer", "radius": "drop"}, "needs the option 'surrogate'"),
        ({"model": Linear(2), "name": "apgd_dlr"}, "models of 3 classes or more"),
        ({"model": nn.Identity()}, "finite logits"),
    ],
)
def test_what_is_not_allowed_is_one_line(change, says):
    model = change.pop("model", Linear(4))
    images = change.pop("images", torch.rand(2, 1, 6, 6, generator=torch.Generator().manual_seed(5)))
    with torch.no_grad():
        labels = change.pop("labels", model(images).argmax(1) if isinstance(model, Linear) and images.shape[1:] == (1, 6, 6)
                            else torch.zeros(2, dtype=torch.int64))  # fmt: skip
    arguments = {"name": "pgd", "radius": 0.1} | change
    if arguments["radius"] == "drop":
        del arguments["radius"]
    with pytest.raises(ValueError, match=says) as raised:
        attack(arguments.pop("name"), model, images, labels, **arguments)
    assert "\n" not in str(raised.value)


def test_a_missing_library_is_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "adv_lib.attacks", None)  # Python's way to say that it is not there
    model, x, y = problem()
    with pytest.raises(ImportError, match=r"needs adv_lib .*pip install --no-deps adv-lib==") as raised:
        attack("ddn", model, x, y)
    assert "\n" not in str(raised.value)


def test_modules_that_are_lent_are_taken_back():
    with _lent({"surely_absent": ("Repo",), "json": ()}):
        assert importlib.import_module("surely_absent").Repo is None
        assert importlib.import_module("json") is json  # what is there stays
    assert "surely_absent" not in sys.modules
