"""The store: nothing torn, nothing foreign, nothing lost."""

import errno
import json
import multiprocessing
import os
import time

import pandas as pd
import pytest
import torch

from distill import records

CONFIG = {"kind": "model", "dataset": "mnist", "profile": "quick", "role": "plain", "temperature": 1.0, "seed": 0, "recipe": {"epochs": 1}}
COLUMNS = {name: CONFIG[name] for name in ("dataset", "profile", "role", "temperature", "seed")}


def write(store, config=CONFIG, value=0.5):
    table = pd.DataFrame([{"accuracy": value, "at_chance": False}])
    columns = {name: config[name] for name in COLUMNS}
    return records.write(
        store,
        config,
        table,
        columns=columns,
        provenance={"wall_seconds": 1.0, "dtype": "float32", "device": "cpu"},
        weights={"w": torch.ones(3)},
    )


def test_round_trip(tmp_path):
    record = write(tmp_path)
    assert record.path.name.startswith("mnist-quick-model-plain-t1-s0-")
    found = records.find(CONFIG, [tmp_path / "empty", tmp_path])
    assert found is not None and found.table()["accuracy"].tolist() == [0.5]
    assert torch.equal(found.weights()["w"], torch.ones(3))
    table = records.load("mnist", "quick", "model", store=tmp_path, seed=0)
    assert len(table) == 1 and table["record"].tolist() == [record.path.name]
    assert records.load("cifar10", store=tmp_path).empty
    for needed in ("versions", "source_sha256", "processor", "threads", "finished"):
        assert needed in found.info["provenance"]


def test_a_column_that_no_record_has_is_refused(tmp_path):
    assert records.load(store=tmp_path, tempature=20).empty  # where nothing is on record, nothing is known
    write(tmp_path)
    with pytest.raises(ValueError, match="no record has the column 'tempature'; allowed are dataset, profile, role, seed, temperature$"):
        records.load(store=tmp_path, tempature=20)
    assert records.load(store=tmp_path, temperature=20).empty
    records.write(tmp_path, CONFIG | {"kind": "attack", "attack": "jsma"}, pd.DataFrame({"success": [True]}), columns={"attack": "jsma"},
                  provenance={"wall_seconds": 1.0})  # fmt: skip
    assert records.load(kind="model", store=tmp_path, attack="jsma").empty  # a column of other records


def test_runs_below_one_another_keep_what_each_measured_and_what_each_fixed(tmp_path):
    attack = CONFIG | {"kind": "attack"}
    made = [
        records.write(tmp_path, attack | {"seed": seed}, pd.DataFrame({"success": success} | measured),
                      columns={"seed": seed} | columns, provenance={"wall_seconds": 1.0})
        for seed, success, measured, columns in ((0, [True, False], {"steps": [3, 4]}, {"output": "logits"}), (1, [True], {}, {"steps": 7}))
    ]  # fmt: skip
    table = records.joined(made)
    assert table.columns.is_unique and table.index.tolist() == [0, 1, 2]
    assert table["success"].tolist() == [True, False, True] and table["seed"].tolist() == [0, 0, 1] and table["steps"].tolist() == [3, 4, 7]
    assert table["output"].tolist()[:2] == ["logits"] * 2 and table["output"].isna().tolist() == [False, False, True]
    assert table["record"].tolist() == [made[0].path.name] * 2 + [made[1].path.name]


def test_others_may_read_all_of_a_record(tmp_path):
    record = write(tmp_path)
    files = {file.name: file.stat().st_mode & 0o777 for file in record.path.iterdir()}
    assert files == dict.fromkeys(("record.json", "table.parquet", "weights.safetensors"), 0o644)
    assert record.path.stat().st_mode & 0o777 == 0o755


def test_a_changed_parameter_is_a_new_run(tmp_path):
    write(tmp_path)
    for change in ({"seed": 1}, {"recipe": {"epochs": 2}}, {"temperature": 1.5}):
        assert records.key(CONFIG | change) != records.key(CONFIG)
        assert records.find(CONFIG | change, [tmp_path]) is None


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda p: (p / "table.parquet").write_bytes((p / "table.parquet").read_bytes()[:-1]), "torn or altered"),
        (lambda p: (p / "weights.safetensors").write_bytes(b"x"), "torn or altered"),
        (lambda p: (p / "table.parquet").unlink(), "table.parquet is missing"),
        (lambda p: (p / "record.json").unlink(), "record.json is missing"),
        (lambda p: (p / "record.json").write_text("{"), "is not a record"),
        (lambda p: (p / "record.json").write_text("[]"), "this version reads 1"),
        (lambda p: edit(p, schema=7), "has the schema 7"),
        (lambda p: edit(p, config=CONFIG | {"seed": 4}), "does not hold the configuration"),
        (lambda p: edit(p, sha256={"table.parquet": "00", "../../x": "00"}), "torn or altered|unknown file"),
        (lambda p: edit(p, sha256={}), "lacks the hash of table.parquet"),
        (lambda p: drop(p, "provenance"), "lacks provenance"),
    ],
)
def test_torn_and_foreign_records_are_refused(tmp_path, damage, message):
    record = write(tmp_path)
    damage(record.path)
    for read in (lambda: records.find(CONFIG, [tmp_path]), lambda: records.load(store=tmp_path)):
        with pytest.raises(records.RecordError, match=message) as raised:
            read()
        assert record.path.name in str(raised.value) and "\n" not in str(raised.value)


def edit(path, **changes):
    info = json.loads((path / "record.json").read_text())
    (path / "record.json").write_text(json.dumps(info | changes))


def drop(path, name):
    info = json.loads((path / "record.json").read_text())
    info.pop(name)
    (path / "record.json").write_text(json.dumps(info))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"accuracy": 1.0}, "gives the column 'accuracy' twice"),
        ({"temperature": 100.0}, "has the column 'temperature' as 100.0 and in its configuration 1.0"),
        ({"role": "student"}, "has the column 'role' as 'student'"),
        ({"dataset": "cifar10"}, "has the column 'dataset' as 'cifar10'"),
    ],
)
def test_columns_that_contradict_the_run_are_refused(tmp_path, columns, message):
    path = write(tmp_path).path
    edit(path, columns=COLUMNS | columns)
    with pytest.raises(records.RecordError, match=message):
        records.load(dataset=columns.get("dataset"), store=tmp_path)


def test_a_run_is_found_by_its_configuration(tmp_path):
    whole = records.load(store=write(tmp_path).path.parent)
    edit(tmp_path / whole["record"].iloc[0], columns={})
    assert records.load("mnist", "quick", temperature=1.0, store=tmp_path)[list(whole)].equals(whole)


@pytest.mark.parametrize(("kind", "table", "lacks"), [("model", {"accuracy": [], "at_chance": []}, "rows"), ("model", {"loss": [1.0]}, "accuracy, at_chance"),
                                                      ("attack", {"features_changed": [3]}, "success")])  # fmt: skip
def test_a_table_that_is_not_of_its_kind_is_refused(tmp_path, kind, table, lacks):
    record = records.write(tmp_path, CONFIG | {"kind": kind}, pd.DataFrame(table), columns=COLUMNS, provenance={"wall_seconds": 1.0})
    with pytest.raises(records.RecordError, match=f"has no {lacks}"):
        record.table()


@pytest.mark.parametrize(
    ("made", "message"),
    [({"wall_seconds": v}, "what it has as wall_seconds") for v in (-5, float("inf"), float("nan"), True, "1")]
    + [({"versions": []}, "what it has as versions"), ({"source_sha256": 5}, "source_sha256"), ({"finished": None}, "finished")],
)
def test_a_provenance_that_is_none_is_refused(tmp_path, made, message):
    record = write(tmp_path)
    edit(record.path, provenance=record.info["provenance"] | made)
    with pytest.raises(records.RecordError, match=message):
        records.load(store=tmp_path)


def test_folders_that_are_no_records_are_left_alone(tmp_path):
    write(tmp_path)
    (tmp_path / "notes").mkdir()
    assert len(records.load(store=tmp_path)) == 1


def test_a_record_under_another_key_is_foreign(tmp_path):
    other = CONFIG | {"seed": 3}
    write(tmp_path).path.rename(tmp_path / records.key(other))
    with pytest.raises(records.RecordError, match="does not hold the configuration"):
        records.find(other, [tmp_path])


def test_a_half_written_record_is_invisible(tmp_path, monkeypatch):
    def dies(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(records.os, "rename", dies)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path)
    assert records.find(CONFIG, [tmp_path]) is None
    assert records.load(store=tmp_path).empty


def test_the_second_writer_of_a_run_gets_the_first_ones_record(tmp_path):
    write(tmp_path, value=0.5)
    assert write(tmp_path, value=0.9).table()["accuracy"].tolist() == [0.5]


def _writer(store, barrier, number):
    barrier.wait()
    for seed in range(8):
        write(store, CONFIG | {"seed": seed}, value=float(number))


def _holder(store, ready):
    with records.claim(store, CONFIG):
        ready.set()
        time.sleep(30)


def test_four_processes_on_one_store(tmp_path):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(4)
    workers = [context.Process(target=_writer, args=(tmp_path, barrier, n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(records.load(store=tmp_path)) == 8
    assert not list(tmp_path.glob(".part-*"))


def test_a_work_folder_that_another_process_takes_away_is_made_again(tmp_path, monkeypatch):
    make, taken = records.tempfile.mkdtemp, []

    def raced(dir, prefix):
        if len(taken) < 3:
            taken.append(dir)
            dir.rmdir()
        return make(dir=dir, prefix=prefix)

    monkeypatch.setattr(records.tempfile, "mkdtemp", raced)
    assert write(tmp_path, value=0.5).table()["accuracy"].tolist() == [0.5] and len(taken) == 3
    monkeypatch.setattr(records.tempfile, "mkdtemp", lambda dir, prefix: dir.rmdir() or make(dir=dir, prefix=prefix))
    with pytest.raises(records.StoreError, match="cannot write"):
        write(tmp_path, CONFIG | {"seed": 7}, value=0.5)


def test_a_claim_goes_with_its_process(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=_holder, args=(tmp_path, ready))
    holder.start()
    assert ready.wait(60)
    assert records.running(tmp_path, CONFIG)
    holder.kill()
    holder.join()
    assert not records.running(tmp_path, CONFIG)
    with records.claim(tmp_path, CONFIG) as work:
        assert work.is_dir()


def test_publishing_leaves_weights_behind_or_takes_them_into_the_zoo(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "PUBLISHED", tmp_path / "results")
    monkeypatch.setattr(records, "ZOO", tmp_path / "zoo")
    record = write(tmp_path / "own")
    published = records.read(records.publish(record))
    assert published.table().equals(record.table())
    assert records.find(CONFIG, [tmp_path / "results"], weights=True) is None
    with pytest.raises(records.RecordError, match="has no weights here"):
        published.weights()
    with pytest.raises(records.RecordError, match="another result of this run"):
        records.publish(write(tmp_path / "elsewhere", value=0.7))
    records.publish(record, weights=True)
    found = records.find(CONFIG, [tmp_path / "results"], weights=True)
    assert torch.equal(found.weights()["w"], torch.ones(3))
    (stored,) = (tmp_path / "zoo").iterdir()
    stored.write_bytes(stored.read_bytes()[:-1] + b"\1")
    with pytest.raises(records.RecordError, match="torn or altered"):
        found.weights()


def test_what_cannot_be_published_is_one_line_and_leaves_nothing(tmp_path, monkeypatch):
    record = write(tmp_path / "own")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(records, "PUBLISHED", tmp_path / "file")
    with pytest.raises(records.RecordError, match=r"cannot publish .* in .*/file: File exists"):
        records.publish(record)
    monkeypatch.setattr(records, "PUBLISHED", tmp_path / "results")
    monkeypatch.setattr(records, "ZOO", tmp_path / "zoo")

    def full(source, part, real=records.shutil.copy):
        if part.parent == records.ZOO:
            part.write_bytes(b"torn")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(source, part)

    monkeypatch.setattr(records.shutil, "copy", full)
    with pytest.raises(records.RecordError, match="No space left on device"):
        records.publish(record, weights=True)
    assert not list((tmp_path / "zoo").iterdir())


def test_a_link_that_leads_nowhere_is_no_missing_record(tmp_path):
    (tmp_path / records.key(CONFIG)).symlink_to(tmp_path / "not mounted")
    with pytest.raises(records.RecordError, match="is a link that leads nowhere"):
        records.find(CONFIG, [tmp_path])


def test_refusals(tmp_path):
    with pytest.raises(ValueError, match="allowed are model, attack, prediction, sensitivity, neighbour, stop, diagnosis, benchmark"):
        records.load(kind="models", store=tmp_path)
    with pytest.raises(records.RecordError, match="no record 'x'"):
        records.named("x", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(records.RecordError, match="cannot write to the store"):
        write(tmp_path / "file" / "store")
