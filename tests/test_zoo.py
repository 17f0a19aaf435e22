"""The published weights are those that their records speak of."""

from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file

from distill import cli, data, experiments, records, training

FILES = sorted(records.ZOO.glob("*.safetensors"))
RECOMPUTED = 3  # accuracies, where the data set is at hand


def test_the_zoo_has_networks_and_stays_small():
    assert FILES
    assert sum(path.stat().st_size for path in FILES) < 60e6


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_weights_are_float16_and_their_records_are_published(path):
    record = records.named(path.stem)
    assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float16}
    assert {name: tensor.shape for name, tensor in record.weights().items()} == {name: t.shape for name, t in load_file(path).items()}
    assert sum(tensor.numel() for tensor in load_file(path).values()) == record.table()["parameters"].item()


@pytest.mark.parametrize("path", FILES[:: max(1, len(FILES) // RECOMPUTED)][:RECOMPUTED], ids=lambda path: path.stem)
def test_recorded_accuracy_is_the_stored_network_s(path):
    record = records.named(path.stem)
    name = record.config["dataset"]
    if not (data.data_root() / name).is_dir():
        pytest.skip(f"{name} is not at hand: distill data {name} fetches it")
    test = data.load(name, train=False)
    model = experiments.load_model(record.config, experiments.Context.new(None)).model
    right = training.accuracy(model, test.x, test.y)
    # Sums in another order may turn a few images that lie on a boundary.
    assert abs(int(right.sum()) - record.table()["correct"].item()) <= 3


@pytest.mark.parametrize(
    "change", [{}, {"role": "student"}, {"profile": "quick"}, {"role": "padded plain"}, {"seed": 1}], ids=lambda change: str(change)
)
def test_the_zoo_takes_the_networks_of_figure_7(monkeypatch, change):
    asked = []
    monkeypatch.setattr(records, "publish", lambda record, *, weights: asked.append(weights))
    cli._publish(SimpleNamespace(config={"profile": "paper", "role": "plain", "seed": 0, **change}))
    assert asked == [change in ({}, {"role": "student"})]
