"""A small sample of ``tests/faults.py``, the rest of which is ``make fault-test``, and what needs no killing."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

from distill import cli, data, records, training

HERE = Path(__file__).parent


def test_a_sample_of_kills():
    done = subprocess.run([sys.executable, str(HERE / "faults.py"), "--sample"], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert sum(map(int, re.findall(r"(\d+) kills? survived", done.stdout))) >= 4


CONFIG = {"kind": "model", "dataset": "d", "profile": "p", "role": "plain", "temperature": 1.0, "seed": 0}


def write(store, config=CONFIG):
    return records.write(store, config, pd.DataFrame({"accuracy": [0.5], "at_chance": [False]}), columns={}, provenance={"wall_seconds": 1.0},
                         weights={"w": torch.ones(3)})  # fmt: skip


@pytest.mark.parametrize("call", ["mkdir", "rename", "fsync"])
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, call):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(*((records.Path, call) if call == "mkdir" else (records.os, call)), full)
        with pytest.raises(records.StoreError, match="cannot write to the store .*: No space left on device; name another by --store"):
            write(tmp_path / "store")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert write(tmp_path / "store").table()["accuracy"].tolist() == [0.5]


def test_what_the_dead_leave_goes_when_their_run_is_done(tmp_path):
    left = tmp_path / ".work" / records.key(CONFIG) / "part-dead"
    left.mkdir(parents=True)
    (left / "table.parquet").write_bytes(b"torn")
    (tmp_path / ".work" / f"{records.key(CONFIG)}.lock").touch()
    assert not records.running(tmp_path, CONFIG)
    with records.claim(tmp_path, CONFIG) as work:
        write(tmp_path)
        shutil.rmtree(work)
    assert not left.exists() and len(records.load(store=tmp_path)) == 1


def test_leftovers_of_a_killed_fetch_are_cleared(tmp_path):
    (tmp_path / ".mnist-5k.part" / "half").mkdir(parents=True)
    (tmp_path / ".mnist-5k.lock").touch()
    (tmp_path / "mnist-5k").mkdir()  # two of four files were in place when it died
    (tmp_path / "mnist-5k" / "train-images-idx3-ubyte").write_bytes(b"torn")
    data.fetch(data.dataset("mnist-5k"), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mnist-5k.lock", "mnist-5k"]


def test_a_store_that_cannot_be_written_stops_the_command_at_once(tmp_path, data_root, capsys, monkeypatch):
    monkeypatch.setenv("DISTILL_DATA", str(data_root))
    (tmp_path / "file").write_text("")
    assert cli.main(["run", "--profile", "smoke", "--store", str(tmp_path / "file"), "--quiet"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "cannot write to the store" in err


def test_a_sealed_checkpoint_is_refused_when_one_bit_differs(tmp_path):
    model = torch.nn.Linear(3, 2)
    optimiser = torch.optim.SGD(model.parameters(), 0.1)
    path = tmp_path / "c.safetensors"
    training._write_checkpoint(path, "this one", model, optimiser, [{"epoch": 1}])
    assert training._resume(path, "this one", model, optimiser) == [{"epoch": 1}]
    blob = bytearray(path.read_bytes())
    blob[-1] ^= 1
    path.write_bytes(blob)
    with pytest.raises(training.TrainingError, match="torn or altered; remove it"):
        training._resume(path, "this one", model, optimiser)
    save_file(model.state_dict(), path, {"signature": "this one", "history": "[]"})  # without a seal
    with pytest.raises(training.TrainingError, match="torn or altered; remove it"):
        training._resume(path, "this one", model, optimiser)


def test_records_of_another_schema_are_refused_by_name(tmp_path):
    record = write(tmp_path)
    for schema in (0, 2, "1", None):
        info = json.loads((record.path / "record.json").read_text()) | {"schema": schema}
        (record.path / "record.json").write_text(json.dumps(info))
        with pytest.raises(records.RecordError, match=f"has the schema {schema}; this version reads 1"):
            records.find(CONFIG, [tmp_path])


def test_a_record_travels_whole_or_not_at_all(tmp_path):
    record = write(tmp_path / "here")
    files = records.pack(record)
    there = records.unpack(tmp_path / "there", record.path.name, files)
    assert there.table().equals(record.table()) and torch.equal(there.weights()["w"], torch.ones(3))
    for damaged in (files | {"table.parquet": files["table.parquet"][:-1]}, {"record.json": files["record.json"]}):
        with pytest.raises(records.RecordError):
            records.unpack(tmp_path / "torn", record.path.name, damaged)
    with pytest.raises(records.RecordError, match="does not hold the configuration"):
        records.unpack(tmp_path / "torn", records.key(CONFIG | {"seed": 1}), files)
    assert records.load(store=tmp_path / "torn").empty


def test_names_of_any_length_fit_the_file_system(tmp_path):
    config = CONFIG | {"dataset": "/folder" * 60}
    assert len(records.key(config)) < 255 and records.key(config) != records.key(config | {"dataset": "/folder" * 61})
    write(tmp_path, config)
    assert records.find(config, [tmp_path]) is not None
