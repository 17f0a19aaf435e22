"""Training: what is reproducible, what is resumed, what is refused."""

import dataclasses
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from distill import models, training

RECIPE = training.Recipe("test", 3, "sgd", 0.1, 0.5, batch_size=32, decay_every=1, learning_rate_decay=0.5, momentum_decay=0.9)


def tiny(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 4))


def problem():
    generator = torch.Generator().manual_seed(5)
    x = torch.rand(100, 1, 8, 8, generator=generator)
    return x, (x.flatten(1).sum(1) * 1.7).long() % 4


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_parameters_and_initialisation():
    for name, count in (("mnist", 312_202), ("cifar10", 1_147_978)):
        model = models.build(name)
        assert sum(p.numel() for p in model.parameters()) == count
        for layer in (m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)):
            fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(layer.weight)
            assert layer.weight.abs().max() <= (6 / (fan_in + fan_out)) ** 0.5
            assert not layer.bias.any()
    assert models.build("mnist")(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    with pytest.raises(ValueError, match="known are mnist, cifar10"):
        models.build("resnet")


def test_what_the_paper_leaves_open_can_be_chosen_otherwise():
    padded = models.build("mnist", padding="same")
    assert sum(p.numel() for p in padded.parameters()) == 312_202 + 200 * (64 * 7 * 7 - 64 * 4 * 4)
    assert padded(torch.rand(2, 1, 28, 28)).shape == (2, 10)
    assert models.build("cifar10", padding="same")(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    first = models.build("mnist", initialisation="torch").features[0]
    assert first.weight.abs().max() <= 1 / 3 and first.bias.any()  # 1 / sqrt(9 inputs)
    for wrong in ({"padding": "full"}, {"initialisation": "he"}):
        with pytest.raises(ValueError, match="allowed are"):
            models.build("mnist", **wrong)


def test_same_seed_same_weights_other_seed_other_weights():
    results = []
    for seed in (1, 1, 2):
        model = tiny()
        training.fit(model, *problem(), temperature=5.0, recipe=RECIPE, seed=seed)
        results.append(weights(model))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_one_step_is_the_gradient_of_the_cross_entropy_at_the_temperature():
    x, y = problem()
    soft = F.one_hot(y, 4) * 0.7 + 0.075
    for labels, target in ((y, F.one_hot(y, 4).float()), (soft, soft)):
        model = tiny().eval()
        expected = tiny().eval()
        loss = -(target * F.log_softmax(expected(x) / 20.0, 1)).sum(1).mean()
        loss.backward()
        model[3].p = 0.0
        step = training.Recipe("one", 1, "sgd", 0.3, 0.0, batch_size=100)
        history = training.fit(model, x, labels, temperature=20.0, recipe=step)
        assert history[0]["loss"] == pytest.approx(loss.item(), rel=1e-5)
        moved = weights(tiny()) - 0.3 * torch.cat([p.grad.flatten() for p in expected.parameters()])
        assert torch.allclose(weights(model), moved, atol=1e-6)


def test_rate_and_momentum_decay():
    recipe = training.recipe("table2", "cifar10")
    optimiser = training._optimiser(tiny(), recipe)
    seen = []
    for epoch in (0, 9, 10, 20, 49):
        training._set_rate(optimiser, recipe, epoch / 50, epoch)
        seen.append((optimiser.param_groups[0]["lr"], optimiser.param_groups[0]["momentum"]))
    assert seen == [(0.01, 0.9), (0.01, 0.9), (0.005, 0.45), (0.0025, 0.225), (0.000625, 0.05625)]
    kept = training.recipe("paper", "cifar10")
    assert (kept.learning_rate_decay, kept.momentum_decay, kept.epochs) == (0.95, 1.0, 50)


def test_every_recipe_is_allowed():
    for recipe in (*training.RECIPES.values(), dataclasses.replace(RECIPE, nesterov=True)):
        training._check_recipe(recipe)


def test_soft_labels_are_the_softmax_at_the_temperature_without_dropout():
    model, (x, _) = tiny().train(), problem()
    labels = training.soft_labels(model, x, 7.0, batch_size=33)
    assert torch.allclose(labels, F.softmax(tiny().eval()(x) / 7.0, 1), atol=1e-6)
    assert model.training


@pytest.mark.parametrize("stop", [1, 2])
@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_resumed_equals_uninterrupted(tmp_path, monkeypatch, stop, optimiser):
    recipe = dataclasses.replace(RECIPE, optimiser=optimiser, learning_rate=0.01)
    whole = tiny()
    history = training.fit(whole, *problem(), temperature=2.0, recipe=recipe)

    real, written = training._write_checkpoint, []

    def dies_after(*arguments):
        real(*arguments)
        written.append(1)
        if len(written) == stop:
            raise KeyboardInterrupt

    checkpoint = tmp_path / "c.safetensors"
    monkeypatch.setattr(training, "_write_checkpoint", dies_after)
    with pytest.raises(KeyboardInterrupt):
        training.fit(tiny(), *problem(), temperature=2.0, recipe=recipe, checkpoint=checkpoint)
    monkeypatch.setattr(training, "_write_checkpoint", real)
    resumed = tiny(seed=9)  # other weights: all must come from the checkpoint
    again = training.fit(resumed, *problem(), temperature=2.0, recipe=recipe, checkpoint=checkpoint)
    assert torch.equal(weights(whole), weights(resumed))
    assert [e["loss"] for e in history] == [e["loss"] for e in again]


SCRIPT = """
import sys, torch
sys.path.insert(0, {tests!r})
from test_training import RECIPE, problem, tiny, weights
from distill import training
import dataclasses, time
torch.set_num_threads(1)
real = training._write_checkpoint
def slow(*a):
    real(*a); print("epoch", flush=True); time.sleep({pause})
training._write_checkpoint = slow
model = tiny(int(sys.argv[2]))
training.fit(model, *problem(), temperature=2.0, recipe=dataclasses.replace(RECIPE, epochs=4), checkpoint=sys.argv[1])
open(sys.argv[1] + ".done", "w").write(repr(weights(model).tolist()))
"""


def test_killed_training_goes_on_where_it_was(tmp_path):
    def start(name, pause, weights_seed=0):
        code = textwrap.dedent(SCRIPT).format(tests=os.path.dirname(__file__), pause=pause)
        return subprocess.Popen([sys.executable, "-c", code, str(tmp_path / name), str(weights_seed)], stdout=subprocess.PIPE, text=True)

    killed = start("a", 60)
    assert killed.stdout.readline() == "epoch\n"
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    killed.stdout.close()
    assert (tmp_path / "a").exists() and not (tmp_path / "a.done").exists()
    for name, weights_seed in (("a", 9), ("b", 0)):  # other initial weights: a must take its own from the checkpoint
        done = start(name, 0, weights_seed)
        done.communicate(timeout=120)
        assert done.returncode == 0
    assert (tmp_path / "a.done").read_text() == (tmp_path / "b.done").read_text()


def test_foreign_and_torn_checkpoints_are_refused(tmp_path):
    checkpoint = tmp_path / "c.safetensors"
    training.fit(tiny(), *problem(), temperature=2.0, recipe=RECIPE, checkpoint=checkpoint)
    x, y = problem()
    for labels, temperature in ((y, 3.0), ((y + 1) % 4, 2.0), (F.one_hot(y, 4).float(), 2.0)):
        with pytest.raises(training.TrainingError, match="another training"):
            training.fit(tiny(), x, labels, temperature=temperature, recipe=RECIPE, checkpoint=checkpoint)
    checkpoint.write_bytes(checkpoint.read_bytes()[:200])
    with pytest.raises(training.TrainingError, match="cannot be read"):
        training.fit(tiny(), *problem(), temperature=2.0, recipe=RECIPE, checkpoint=checkpoint)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(64, 64), nn.Linear(64, 64)
        self.outer.weight = self.inner.weight

    def forward(self, x):
        return self.outer(self.inner(x.flatten(1)))


def test_a_checkpoint_of_another_network_or_for_tied_weights_is_refused_in_one_line(tmp_path):
    checkpoint = tmp_path / "c.safetensors"
    training.fit(tiny(), *problem(), temperature=2.0, recipe=RECIPE, checkpoint=checkpoint)
    wider = nn.Sequential(nn.Flatten(), nn.Linear(64, 17), nn.ReLU(), nn.Linear(17, 4))
    with pytest.raises(training.TrainingError, match="is of another network .*; remove it to train from the start") as raised:
        training.fit(wider, *problem(), temperature=2.0, recipe=RECIPE, checkpoint=checkpoint)
    assert "\n" not in str(raised.value)
    history = training.fit(Tied(), *problem(), temperature=2.0, recipe=RECIPE)
    assert len(history) == 3
    with pytest.raises(training.CheckpointError, match="^inner.weight and outer.weight are tied weights.*allowed is checkpoint=None$"):
        training.fit(Tied(), *problem(), temperature=2.0, recipe=RECIPE, checkpoint=tmp_path / "tied")


def test_a_loss_that_is_not_finite_stops_the_run_with_its_name():
    x, y = problem()
    recipe = dataclasses.replace(RECIPE, learning_rate=1e30)
    with pytest.raises(training.TrainingError, match="the teacher of this test: the loss is (nan|inf)"):
        training.fit(tiny(), x, y, temperature=1.0, recipe=recipe, name="the teacher of this test")


def test_bfloat16_keeps_float32_weights_and_logits(digits):
    model = models.build("mnist")
    with torch.autocast("cpu", torch.bfloat16):
        assert model(digits.x[:4]).dtype == torch.float32
        assert model.features(digits.x[:4]).dtype == torch.bfloat16
    recipe = training.Recipe("short", 20, "adam", 3e-3, 0.9, one_cycle=True, dropout=0.0, batch_size=25)
    history = training.fit(model, digits.x[::20], digits.y[::20], temperature=1.0, recipe=recipe, precision="bfloat16")
    assert history[-1]["loss"] < 1.0  # guessing has 2.3
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf"), "hot"])
def test_refused_temperatures(temperature):
    with pytest.raises(ValueError, match="allowed is a finite number above 0"):
        training.fit(tiny(), *problem(), temperature=temperature, recipe=RECIPE)


def test_other_refusals():
    x, y = problem()
    with pytest.raises(ValueError, match="allowed are float32, bfloat16"):
        training.fit(tiny(), x, y, temperature=1, recipe=RECIPE, precision="half")
    with pytest.raises(ValueError, match="one label an image"):
        training.fit(tiny(), x, y[:-1], temperature=1, recipe=RECIPE)
    with pytest.raises(ValueError, match="known are"):
        training.recipe("slow", "mnist")


def test_fractional_epochs_end_within_a_pass():
    history = training.fit(tiny(), *problem(), temperature=1.0, recipe=dataclasses.replace(RECIPE, epochs=1.5))
    assert [entry["epoch"] for entry in history] == [1, 2]
    for epochs, entries in ((0.1, 1), (1.05, 1)):
        assert len(training.fit(tiny(), *problem(), temperature=1.0, recipe=dataclasses.replace(RECIPE, epochs=epochs))) == entries
    for epochs in (0, -1, float("nan")):
        with pytest.raises(ValueError, match="epochs is"):
            training.fit(tiny(), *problem(), temperature=1.0, recipe=dataclasses.replace(RECIPE, epochs=epochs))


def test_what_a_network_does_to_its_input_is_its_own_affair_and_gradients_may_be_off():
    class InPlace(torch.nn.Module):
        def forward(self, x):
            return x.sub_(0.5).flatten(1)[:, :3]

    x, y = torch.rand(4, 1, 2, 2, generator=torch.Generator().manual_seed(0)), torch.arange(4) % 3
    before = x.clone()
    right = training.accuracy(InPlace(), x, y, batch_size=2)
    assert torch.equal(x, before) and torch.equal(right, before.flatten(1)[:, :3].argmax(1) == y)
    recipe = training.Recipe("short", 1, "adam", 1e-2, 0.9, batch_size=2)
    networks = [torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3)) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    training.fit(networks[0], x, y, temperature=1, recipe=recipe)
    torch.no_grad()(training.fit)(networks[1], x, y, temperature=1, recipe=recipe)
    assert torch.equal(networks[0][1].weight, networks[1][1].weight)


def test_defend_distils_any_network_at_the_temperature():
    x, y = problem()
    factory = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4))  # noqa: E731
    recipe = training.Recipe("mine", 150, "adam", 0.01, 0.9, batch_size=50)
    hot = training.defend(factory, x, y, temperature=20.0, recipe=recipe, seed=3)
    cold = training.defend(factory, x, y, temperature=1.0, recipe=recipe, seed=3)
    assert not hot.student.training
    soft = training.soft_labels(hot.teacher, x, 20.0)
    cross_entropy = -(soft * F.log_softmax(hot.student(x) / 20.0, 1)).sum(1).mean()
    entropy = -(soft * soft.clamp(min=1e-30).log()).sum(1).mean()
    assert 0 <= cross_entropy - entropy < 0.1  # the student learned the teacher's soft labels
    assert hot.student(x).abs().mean() > 5 * cold.student(x).abs().mean()  # and its logits grew with the temperature
    again = training.defend(factory, x, y, temperature=20.0, recipe=recipe, seed=3)
    assert torch.equal(weights(hot.student), weights(again.student))


def test_smoothed_labels_are_the_papers():
    labels = training.smoothed_labels(torch.tensor([3, 0]), 10)
    assert labels[0].tolist() == pytest.approx([0.01] * 3 + [0.9] + [0.01] * 6) and labels[1, 0].item() == pytest.approx(0.9)
