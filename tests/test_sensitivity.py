"""Gradient amplitudes against autograd where float64 can, and against arithmetic with as many digits as it takes."""

import math

import mpmath
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill import models, sensitivity
from distill.sensitivity import amplitude, log10_amplitude, log10_gradients

INF = math.inf


def small_network(classes=4, seed=0, scale=1.0):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, classes)).double()
    with torch.no_grad():
        model[2].weight *= scale
        model[2].bias *= scale
    return model


def linear(weight, bias):
    """Logits ``weight @ x + bias``, so that the Jacobian of the logits is ``weight`` whatever the image."""
    layer = nn.Linear(len(weight[0]), len(weight))
    with torch.no_grad():
        layer.weight[:], layer.bias[:] = torch.tensor(weight), torch.tensor(bias)
    return layer


def by_autograd(model, images, temperature=1.0):
    """float64 (N, classes, features), the ordinary way."""
    rows = []
    for image in images.double():
        jacobian = torch.autograd.functional.jacobian(lambda x: F.softmax(model(x[None]) / temperature, 1)[0], image)
        rows.append(jacobian.flatten(1))
    return torch.stack(rows)


def exact_softmax(logits, jacobian, temperature):
    """log10 of |dF_j/dX_i|, their mean and their maximum by F_j (dZ_j - sum_k F_k dZ_k) / T, with digits enough for 1 - F_top."""
    span = (max(logits) - min(logits)) / temperature
    with mpmath.workdps(60 + int(2.2 * span / mpmath.log(10))):
        powers = [mpmath.exp((z - max(logits)) / temperature) for z in logits]
        probabilities = [power / mpmath.fsum(powers) for power in powers]
        entries = []
        for column in zip(*jacobian, strict=True):
            mean = mpmath.fdot(probabilities, column)
            differences = [d - mean if abs(d - mean) > mpmath.eps * 1e9 else 0 for d in column]  # the rest is rounding
            entries.append([abs(p * d / temperature) for p, d in zip(probabilities, differences, strict=True)])
        flat = [entry for row in zip(*entries, strict=True) for entry in row]  # class by class
        mean = mpmath.fsum(flat) / len(flat)
    with mpmath.workdps(30):
        logs = [mpmath.log10(entry) if entry else -mpmath.inf for entry in (*flat, mean, max(flat))]
    return logs[:-2], logs[-2], logs[-1]


def exact(model, image, temperature):
    """Of a `small_network`: weights and image are taken as they are and every step is done in many digits."""
    with mpmath.workdps(60):
        first, bias, second, last = (mpmath.matrix(p.tolist()) for p in model.parameters())
        hidden = first * mpmath.matrix(image.tolist()) + bias
        mask = mpmath.diag([int(h > 0) for h in hidden])
        logits, jacobian = second * mask * hidden + last, second * mask * first
        return exact_softmax(list(logits), jacobian.tolist(), temperature)


def assert_close(found, expected, tolerance=1e-10):
    """Of log10 values: the numbers themselves agree to a relative tolerance, and what is zero is zero."""
    found, expected = found.flatten(), torch.tensor([float(value) for value in expected], dtype=torch.float64)
    zero = expected == -INF
    assert torch.equal(found == -INF, zero)
    assert ((found - expected)[~zero].abs() * math.log(10) < tolerance).all(), (found - expected)[~zero].abs().max()


# --- where float64 can -----------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.3, 7.0])
@pytest.mark.parametrize("classes", [2, 5])
def test_equals_autograd(classes, temperature):
    model, x = small_network(classes, seed=classes + 1, scale=3.0), torch.randn(7, 6, dtype=torch.float64)
    expected = by_autograd(model, x, temperature).abs()  # it loses digits where terms nearly cancel; with these seeds none do
    assert 0.01 < expected.max() < 10
    assert_close(log10_gradients(model, x, temperature=temperature, batch_size=3), expected.log10().flatten())
    for statistic, reduced in (("mean", expected.mean((1, 2))), ("max", expected.amax((1, 2)))):
        assert_close(log10_amplitude(model, x, temperature=temperature, statistic=statistic, batch_size=3), reduced.log10())
    plain = amplitude(model, x, dtype=torch.float64, temperature=temperature, batch_size=2)
    assert_close(plain.amplitude.log10(), expected.mean((1, 2)).log10())
    assert plain.zero_share.tolist() == [0.0] * 7


def test_equals_autograd_on_the_mnist_network():
    torch.manual_seed(0)
    model, x = models.build("mnist"), torch.rand(2, 1, 28, 28)
    copied = models.build("mnist").double().eval()
    copied.load_state_dict(model.state_dict())
    expected = by_autograd(copied, x).abs()
    assert_close(log10_gradients(model, x), expected.log10().flatten())
    assert_close(log10_amplitude(model, x), expected.mean((1, 2)).log10())
    single = amplitude(model, x, dtype=torch.float32)
    assert torch.allclose(single.amplitude, expected.mean((1, 2)), rtol=1e-4)
    assert single.amplitude.dtype == torch.float64
    assert not torch.equal(single.amplitude, amplitude(model, x, dtype=torch.float64).amplitude)  # it is float32


# --- where it cannot -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "temperature"), [(1e2, 1.0), (1e3, 1.0), (1e4, 1.0), (1e4, 13.0), (30.0, 0.01)])
@pytest.mark.parametrize("classes", [2, 4])
def test_far_below_float64(classes, scale, temperature):
    model = small_network(classes, seed=5, scale=scale)
    for image in torch.randn(2, 6, generator=torch.Generator().manual_seed(classes)):
        logs, mean, largest = exact(model, image, temperature)
        assert mean < -0.06 * scale / temperature  # 1e-600 where the logits are largest
        found = log10_gradients(model, image[None], temperature=temperature)
        assert_close(found, logs)
        assert_close(log10_amplitude(model, image[None], temperature=temperature), [mean])
        assert_close(log10_amplitude(model, image[None], temperature=temperature, statistic="max"), [largest])


def test_the_mnist_network_with_large_logits():
    torch.manual_seed(1)
    model, image = models.build("mnist").eval(), torch.rand(1, 1, 28, 28)
    with torch.no_grad():
        model.last.weight *= 30_000
        model.last.bias *= 30_000
    copied = models.build("mnist").double().eval()
    copied.load_state_dict(model.state_dict())
    logits = copied(image.double())[0]
    jacobian = torch.autograd.functional.jacobian(lambda x: copied(x)[0], image.double()).flatten(1)
    with mpmath.workdps(200):  # the numbers of float64, exactly
        z, d = [mpmath.mpf(v) for v in logits.tolist()], [[mpmath.mpf(v) for v in row] for row in jacobian.tolist()]
        expected, mean, largest = exact_softmax(z, d, 1)
    assert mean < -330
    assert_close(log10_gradients(model, image), expected)
    assert_close(log10_amplitude(model, image), [mean])


HAND_MADE = {
    "tied at the top": ([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25]], [0.0, 0.0, -2000.0], 1.0),
    "all tied": ([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25]], [5.0, 5.0, 5.0], 1.0),
    "tied others": ([[1.0, 2.0], [3.0, -1.0], [0.5, 0.25]], [3000.0, 0.0, 0.0], 1.0),
    "two classes": ([[1.0, 2.0], [3.0, -1.0]], [4096.0, 0.0], 0.5),
    "equal derivatives at the top, the next logit decides": ([[1.0, 2.0], [1.0, 2.0], [3.0, -1.0]], [1000.0, 0.0, -900.0], 1.0),
    "tied terms cancel, the next logit decides": ([[1.0], [-1.0], [0.0], [7.0]], [0.0, 0.0, -1000.0, -3000.0], 1.0),
    "zero in one feature": ([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]], [900.0, 0.0, -900.0], 2.0),
    "zero in one class only": ([[0.0], [1.0], [-1.0]], [-1000.0, 0.0, 0.0], 1.0),
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_ties_and_zeros(name):
    weight, bias, temperature = HAND_MADE[name]
    with mpmath.workdps(50):
        logs, mean, largest = exact_softmax([mpmath.mpf(b) for b in bias], [[mpmath.mpf(w) for w in row] for row in weight], temperature)
    arguments = (linear(weight, bias), torch.zeros(1, len(weight[0])))
    assert_close(log10_gradients(*arguments, temperature=temperature), logs)
    assert_close(log10_amplitude(*arguments, temperature=temperature), [mean])
    assert_close(log10_amplitude(*arguments, temperature=temperature, statistic="max"), [largest])


def test_a_network_that_ignores_its_image():
    model = linear([[1.0, 2.0], [1.0, 2.0]], [0.0, 3.0])
    for statistic in sensitivity.STATISTICS:
        assert log10_amplitude(model, torch.zeros(1, 2), statistic=statistic).tolist() == [-INF]
    clipped = nn.Sequential(model, nn.Threshold(1e9, -1.0))
    assert log10_amplitude(clipped, torch.zeros(1, 2)).tolist() == [-INF]
    assert amplitude(clipped, torch.zeros(1, 2), dtype=torch.float64) == (0.0, 1.0)


# --- what floating point makes of it ---------------------------------------------------------------------


def test_float32_and_float64_underflow_where_the_logarithm_does_not():
    x = torch.zeros(1, 2)
    for gap, lost in ((30.0, []), (150.0, [torch.float32]), (2000.0, [torch.float32, torch.float64])):
        model = linear([[1.0, 2.0], [3.0, -1.0]], [gap, 0.0])  # dF/dX = F_0 F_1 (2, 3), F_1 = e^-gap
        assert log10_amplitude(model, x).item() == pytest.approx((math.log(2.5) - gap) / math.log(10), rel=1e-12)
        for dtype in (torch.float32, torch.float64):
            found = amplitude(model, x, dtype=dtype)
            assert (found.amplitude.item() == 0) == (found.zero_share.item() == 1) == (dtype in lost)


def test_the_mean_itself_does_not_underflow():
    weight = [1e-27] + [0.0] * 9_999  # two derivatives of 2e-40, whose mean float32 would have to two digits
    model, x = linear([weight, [-w for w in weight]], [0.0, -30.0]), torch.zeros(1, 10_000)
    found = amplitude(model, x, dtype=torch.float32)
    # 1 - F_top rounds to 0, so the top class's derivative is half of what it should be, and the mean three quarters.
    assert found.amplitude.log10().item() == pytest.approx(log10_amplitude(model, x).item() + math.log10(0.75), abs=1e-4)
    assert found.zero_share.item() == pytest.approx(0.9999, rel=1e-12)


def test_zero_share_counts_the_entries_of_each_image():
    class Gap(nn.Module):
        def forward(self, x):  # the third logit is far away, and further in the second image
            return torch.stack([x[:, 0], x[:, 1], x[:, 2] * 100], 1)

    x = torch.tensor([[0.0, 0.0, -0.5], [0.0, 0.0, -20.0]])
    found = amplitude(Gap(), x, dtype=torch.float64)
    # Of nine derivatives none is zero with F_3 = e^-50; with F_3 = e^-2000 those of class 3 and those by feature 3 are.
    assert found.zero_share.tolist() == [0.0, pytest.approx(5 / 9)]
    assert (log10_gradients(Gap(), x) > -INF).all()


class Faint(nn.Module):
    """Derivatives of 1e-20 * 1e-20, which float32 has only as denormals, made in an operation that uses every thread."""

    def forward(self, x):
        total = (x.flatten(1) * 1e-20).sum(1)
        return torch.stack([total, -total - 46.0], 1)


def test_flushing_reaches_every_thread_and_is_undone():
    threads, x = torch.get_num_threads(), torch.zeros(4, 1, 200, 500)
    try:
        torch.set_num_threads(2)
        kept = amplitude(Faint(), x, dtype=torch.float32)
        flushed = amplitude(Faint(), x, dtype=torch.float32, flush=True)
        again = amplitude(Faint(), x, dtype=torch.float32)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert (kept.amplitude > 0).all() and (kept.amplitude < torch.finfo(torch.float32).tiny).all()
    assert kept.zero_share.tolist() == [0.0] * 4
    assert flushed.amplitude.tolist() == [0.0] * 4 and flushed.zero_share.tolist() == [1.0] * 4
    assert torch.equal(again.amplitude, kept.amplitude)
    assert torch.tensor(2.0**-140).item() > 0


def test_the_callers_own_switch_is_neither_used_nor_lost():
    x = torch.zeros(1, 1, 2, 2)
    kept = amplitude(Faint(), x, dtype=torch.float32).amplitude
    try:
        torch.set_flush_denormal(True)
        found = amplitude(Faint(), x, dtype=torch.float32).amplitude
        still = (torch.full((1,), 1e-30) * 1e-10).item()
        with pytest.raises(ValueError, match="not finite"):
            amplitude(Faint(), x / 0, dtype=torch.float32)
        after_error = (torch.full((1,), 1e-30) * 1e-10).item()
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(found, kept) and kept > 0
    assert still == after_error == 0
    with pytest.raises(ValueError, match="not finite"):
        amplitude(Faint(), x / 0, dtype=torch.float32, flush=True)
    assert (torch.full((1,), 1e-30) * 1e-10).item() > 0


def test_a_processor_that_cannot_flush_says_so(monkeypatch):
    monkeypatch.setattr(torch, "set_flush_denormal", lambda flush: False)
    with pytest.raises(ValueError, match="cannot flush"):
        amplitude(Faint(), torch.zeros(1, 4), dtype=torch.float32, flush=True)
    assert amplitude(Faint(), torch.zeros(1, 4), dtype=torch.float32).zero_share.tolist() == [0.0]


# --- manners ---------------------------------------------------------------------------------------------

MEASURES = {
    "gradients": log10_gradients,
    "exact": log10_amplitude,
    "float32": lambda *a, **o: amplitude(*a, dtype=torch.float32, **o),
    "float64": lambda *a, **o: amplitude(*a, dtype=torch.float64, flush=True, **o),
}


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
def test_the_model_and_the_images_are_left_as_they_were(measure):
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 3)).train()
    model[1].eval()
    model[3].weight.requires_grad_(False)
    before, x = {name: tensor.clone() for name, tensor in model.state_dict().items()}, torch.rand(5, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        first, second = measure(model, x), measure(model, x)
    assert torch.equal(torch.as_tensor(first[0]), torch.as_tensor(second[0]))  # no dropout, no statistics of the batch
    assert model.training and model[0].training and not model[1].training
    assert [p.requires_grad for p in model.parameters()] == [True] * 4 + [False, True]
    assert all(p.dtype == torch.float32 and p.grad is None for p in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not x.requires_grad and x.dtype == torch.float32


def test_autocast_does_not_reach_in():
    model, x = small_network(), torch.rand(3, 6)
    expected = log10_gradients(model, x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(log10_gradients(model, x), expected)


def test_no_images():
    model, none = small_network(), torch.zeros(0, 6)
    assert log10_gradients(model, none).shape == (0, 4, 6)
    assert log10_amplitude(model, none).shape == amplitude(model, none, dtype=torch.float32).zero_share.shape == (0,)


class Hardened(nn.Module):
    def forward(self, x):
        return x.flatten(1).float()


class Detached(nn.Module):
    def forward(self, x):
        return x.flatten(1).detach()


@pytest.mark.parametrize("measure", MEASURES.values(), ids=MEASURES)
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (dict(temperature=0.0), "above 0"),
        (dict(temperature=-1.0), "above 0"),
        (dict(temperature=INF), "above 0"),
        (dict(model=small_network(scale=1e30), temperature=1e-300), "logits over the temperature are not finite"),
        (dict(batch_size=0), "above 0"),
        (dict(batch_size=2.0), "above 0"),
        (dict(images=torch.full((2, 6), math.nan)), "images hold values that are not finite"),
        (dict(images=torch.zeros(2, 6, dtype=torch.uint8)), "floating-point"),
        (dict(images=torch.zeros(6)), "shape"),
        (dict(model=nn.Sequential(small_network(), nn.Softmax(1))), "returns probabilities"),
        (dict(model=nn.Sequential(small_network(), nn.Unflatten(1, (2, 2)))), "logits of shape"),
        (dict(model=nn.Linear(6, 1)), "two classes or more"),
        (dict(model=linear([[INF] * 6] * 2, [0.0, 0.0])), "not finite for some images"),
    ],
)  # fmt: skip
def test_refused(measure, changed, message):
    arguments = dict(model=small_network(), images=torch.rand(2, 6)) | changed
    with pytest.raises(ValueError, match=message) as raised:
        measure(arguments.pop("model"), arguments.pop("images"), **arguments)
    assert "\n" not in str(raised.value)


def test_refused_options():
    model, x = small_network(), torch.rand(2, 6)
    with pytest.raises(ValueError, match="allowed are mean, max"):
        log10_amplitude(model, x, statistic="median")
    with pytest.raises(ValueError, match=r"allowed are torch.float32, torch.float64"):
        amplitude(model, x, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="turns torch.float64 into torch.float32"):
        log10_amplitude(Hardened(), x)
    with pytest.raises(ValueError, match="switch of the CPU"):
        amplitude(nn.Linear(6, 2, device="meta"), x, dtype=torch.float32, flush=True)
    with pytest.raises(ValueError, match="cannot be differentiated"):
        log10_amplitude(Detached(), x)


def test_the_walk_over_classes_does_not_depend_on_their_order():
    torch.manual_seed(0)
    scaled, jacobian = torch.randn(5, 7, dtype=torch.float64) * 1e3, torch.randn(5, 7, 4, dtype=torch.float64)
    order = torch.randperm(7)
    assert torch.equal(sensitivity.log_jacobian(scaled, jacobian)[:, order], sensitivity.log_jacobian(scaled[:, order], jacobian[:, order]))
