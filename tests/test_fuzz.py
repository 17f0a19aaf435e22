"""Random arguments and random damage: only the documented errors. More examples: ``FUZZ=5000 pytest tests/test_fuzz.py``."""

import contextlib
import hashlib
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from distill import cli, cluster, data, experiments, plans, records, training

EXAMPLES = int(os.environ.get("FUZZ", "0")) or 150
SETTINGS = settings(max_examples=EXAMPLES, deadline=None, derandomize="FUZZ" not in os.environ, database=None,
                    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])  # fmt: skip

OPTIONS = ("--profile", "--dataset", "--temperatures", "--seeds", "--stages", "--precision", "--device", "--threads", "--processes", "--engine",
           "--address", "--gpus", "--retries", "--store", "--data-root", "--publish", "--quiet", "--debugger", "--help", "--version")  # fmt: skip
VALUES = ("smoke", "quick", "paper", "mnist", "mnist-5k", "cifar10", "none", "1,20", "0", "-1", "nan", "inf", "1e-320", "1e308", "cpu", "cuda",
          "local", "ray", "train", "attack,split", "auto", "", ",", ".", "/", "./x", "~", "[1, 20]", "9" * 5000, "١", "\0", "a" * 5000)  # fmt: skip
WORDS = st.one_of(st.sampled_from(OPTIONS), st.sampled_from(VALUES), st.text(max_size=8))
PAIRS = st.lists(st.tuples(st.sampled_from(OPTIONS), st.sampled_from(VALUES) | st.text(max_size=8)).map(list), max_size=5)
LINES = st.one_of(
    st.lists(st.sampled_from(("run", "status", "data")) | WORDS, max_size=7),
    st.tuples(st.sampled_from(("run --profile smoke", "run", "status", "data")), PAIRS).map(
        lambda t: [*t[0].split(), *itertools.chain(*t[1])]
    ),
)


def test_command_lines(tmp_path, monkeypatch, capsys):
    def fetch(spec, root=None):
        if spec.sha256:
            return [tmp_path], "nowhere", ["0" * 64]
        raise data.DataError("no files in this folder")

    monkeypatch.setattr(experiments, "ensure", lambda runs, context, engine: [])  # what is fuzzed is what comes before it
    monkeypatch.setattr(data, "fetch", fetch)
    monkeypatch.setattr(
        data, "load", lambda name, train, root: data.Images(torch.zeros(60, 1, 28, 28), torch.zeros(60), name, "nowhere", "")
    )
    monkeypatch.setattr(cluster, "_ray", lambda: None)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    monkeypatch.setattr(records, "PUBLISHED", tmp_path / "results")
    monkeypatch.setenv("DISTILL_STORE", str(tmp_path / "store"))
    monkeypatch.chdir(tmp_path)
    codes = []

    @SETTINGS
    @given(LINES)
    def fuzz(line):
        try:
            code = cli.main(line)
        except SystemExit as ended:  # argparse's --help and --version
            assert ended.code == 0
            code = 0
        err = capsys.readouterr().err
        assert code in (0, 1, 2)
        assert err.count("\n") == (code != 0) and "Traceback" not in err, (line, err)
        codes.append(code)

    fuzz()
    assert set(codes) >= {0, 2}
    assert not list(tmp_path.iterdir())


CONFIG = {"kind": "model", "dataset": "mnist", "profile": "quick", "role": "plain", "temperature": 1.0, "seed": 0, "recipe": {"epochs": 1}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    table = pd.DataFrame({"accuracy": np.linspace(0, 1, 50), "at_chance": False, "status": ["SUCCESS"] * 50})
    return records.write(tmp_path_factory.mktemp("whole"), CONFIG, table, columns={"profile": "quick"},
                         provenance={"wall_seconds": 1.0}, weights={"w": torch.arange(50.0)})  # fmt: skip


def copy(record, store):
    shutil.rmtree(store, ignore_errors=True)
    store.mkdir()
    return Path(shutil.copytree(record.path, store / record.path.name))


def read_all(store):
    """Every way to read a record; only its documented error may come."""
    for read in (lambda: records.find(CONFIG, [store]), lambda: records.load(store=store), lambda: records.all_records(store)):
        try:
            found = read()
        except records.RecordError as error:
            assert "\n" not in str(error)
            continue
        for record in found if isinstance(found, list) else [found] if isinstance(found, records.Record) else []:
            for part in (record.table, record.weights):
                try:
                    part()
                except records.RecordError as error:
                    assert "\n" not in str(error)


@pytest.mark.parametrize("file", ["record.json", "table.parquet", "weights.safetensors"])
@pytest.mark.parametrize("refit", [False, True], ids=["as found", "with a hash made to fit"])
def test_damaged_bytes(whole, tmp_path, file, refit):
    blob = (whole.path / file).read_bytes()
    flips = st.lists(st.tuples(st.integers(0, len(blob) - 1), st.integers(1, 255)), min_size=1, max_size=4)

    @settings(SETTINGS, max_examples=max(1, EXAMPLES // 5))
    @given(flips, st.none() | st.integers(0, len(blob)), st.binary(max_size=20))
    def fuzz(flips, cut, more):
        path = copy(whole, tmp_path / "store")
        damaged = bytearray(blob)
        for place, by in flips:
            damaged[place] ^= by
        damaged = bytes(damaged[:cut]) + more
        (path / file).write_bytes(damaged)
        if refit and file != "record.json":
            info = json.loads((path / "record.json").read_text())
            info["sha256"][file] = hashlib.sha256(damaged).hexdigest()
            (path / "record.json").write_text(json.dumps(info))
        elif damaged != blob and file != "record.json":
            with pytest.raises(records.RecordError, match="torn or altered"):
                records.find(CONFIG, [tmp_path / "store"])
        read_all(tmp_path / "store")

    fuzz()


ATOMS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
JSON = ATOMS | st.lists(ATOMS, max_size=3) | st.dictionaries(st.text(max_size=5), ATOMS | st.lists(ATOMS, max_size=2), max_size=3)
PLACES = [("schema",), ("config",), ("columns",), ("provenance",), ("sha256",), ("provenance", "wall_seconds"), ("config", "recipe"),
          ("config", "kind"), ("config", "temperature"), ("config", "dataset"), ("columns", "profile"), ("sha256", "table.parquet"),
          ("config", "attack"), ("config", "images"), ("config", "seed"), ("config", "draw"), ("provenance", "threads")]  # fmt: skip


def test_records_of_any_json(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DISTILL_DATA", str(tmp_path))

    @SETTINGS
    @given(st.sampled_from(PLACES), JSON)
    def fuzz(place, value):
        path = copy(whole, tmp_path / "store")
        info = json.loads((path / "record.json").read_text())
        inner = info
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = value
        (path / "record.json").write_text(json.dumps(info))
        with contextlib.suppress(Exception):  # under the name that fits, if any, so that the name alone is not what refuses it
            path.rename(path.parent / records.key(info["config"]))
        read_all(tmp_path / "store")
        code = cli.main(["status", "--profile", "smoke", "--store", str(tmp_path / "store")])
        err = capsys.readouterr().err
        assert err.count("\n") == (code != 0)

    monkeypatch.setattr(plans, "data_identity", lambda spec: "0")
    fuzz()
    deep = copy(whole, tmp_path / "store") / "record.json"
    for text in ("[" * 100_000, '{"a":' * 100_000, "9" * 10_000, "\ufeff{}", ""):
        deep.write_text(text)
        with pytest.raises(records.RecordError):
            records.find(CONFIG, [tmp_path / "store"])


def test_any_bytes_as_an_idx_file():
    blob = data.encode_idx(np.zeros((2, 3), np.uint8))

    @SETTINGS
    @given(st.binary(max_size=40) | st.binary(max_size=8).map(lambda tail: blob[:8] + tail))
    def fuzz(damaged):
        try:
            assert data.decode_idx(damaged, "f").dtype == np.uint8
        except data.DataError as error:
            assert str(error).startswith("f is ")

    fuzz()


def test_damaged_checkpoints(tmp_path):
    model, path = nn.Linear(3, 2), tmp_path / "c.safetensors"
    optimiser = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    training._write_checkpoint(path, "mine", model, optimiser, [{"epoch": 1}])
    blob = path.read_bytes()

    @settings(SETTINGS, max_examples=max(1, EXAMPLES // 3))
    @given(st.integers(0, len(blob) - 1), st.integers(1, 255), st.none() | st.integers(0, len(blob)))
    def fuzz(place, by, cut):
        damaged = bytearray(blob)
        damaged[place] ^= by
        path.write_bytes(bytes(damaged[:cut]))
        try:
            training._resume(path, "mine", model, optimiser)
        except training.TrainingError as error:
            assert "remove it to train from the start" in str(error)

    fuzz()
