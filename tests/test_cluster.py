"""Several processes and many machines leave the records that one process leaves."""

import multiprocessing
import os
import signal
import subprocess
import sys
import types
from pathlib import Path

import pandas as pd
import psutil
import pytest

from distill import cli, cluster, experiments, plans, records, training

sys.path.insert(0, str(Path(__file__).parent))
from faults import essence

RECIPE = training.Recipe("smoke", 0.2, "adam", 3e-3, 0.9, dropout=0.0, batch_size=32)


@pytest.fixture()
def place(tmp_path, data_root, monkeypatch):
    monkeypatch.setitem(training.RECIPES, ("smoke", "mnist"), RECIPE)
    monkeypatch.setattr(records, "PUBLISHED", tmp_path / "results")
    monkeypatch.setenv("DISTILL_DATA", str(data_root))
    return tmp_path


def context(store, say=print, **options):
    return experiments.Context.new(store, say=say, **options)


def test_what_a_run_needs_comes_before_it():
    runs = plans.plan("smoke", "mnist-5k", stages=["attack", "predictions", "smoothing", "neighbours", "sound"])
    keys = [records.key(run) for run in runs]
    for run in runs:
        assert all(keys.index(records.key(above)) < keys.index(records.key(run)) for above in plans.needs(run))
    assert sorted({cluster._depth(run) for run in runs}) == [0, 1, 2, 3]


def test_processes_leave_the_records_of_one(place, capfd):
    runs = plans.plan("smoke", "mnist-5k", ["none", 20], stages=["train"])
    said = []
    assert experiments.ensure(runs, context(place / "one", said.append)) == []
    again = []
    assert experiments.ensure(runs, context(place / "two", again.append), engine=cluster.in_processes(2, threads=1)) == []
    assert essence(place / "two") == essence(place / "one")
    untimed = [{line.split("] ")[-1].rpartition(" (")[0] for line in lines[1:]} for lines in (said, again)]
    assert untimed[0] == untimed[1] and len(untimed[0]) == 3


def test_what_is_queued_is_dropped_when_the_outcomes_are_no_longer_taken(place):
    runs = plans.plan("smoke", "mnist-5k", ["none"], stages=["train"], seeds=range(8))

    def full(record):
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        experiments.ensure(runs, context(place / "one", publish=full), engine=cluster.in_processes(1, threads=1))
    assert multiprocessing.active_children() == []
    assert 1 <= len(records.all_records(place / "one")) <= 3  # of eight


INTERRUPTED = """
import sys
if __name__ == "__mp_main__":
    print("a process is starting", flush=True)
from distill import cli, training
training.RECIPES["smoke", "mnist"] = training.Recipe("smoke", 0.2, "adam", 3e-3, 0.9, dropout=0.0, batch_size=32)
if __name__ == "__main__":
    import signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # who starts the tests may have had it ignored
    sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("moment", ["[2/", "a process is starting"])
def test_ctrl_c_ends_all_processes(place, data_root, moment):
    (place / "run.py").write_text(INTERRUPTED)
    command = [sys.executable, str(place / "run.py"), "run", "--profile", "smoke", "--temperatures", "none", "--stages", "train"]
    asked = ["--seeds", ",".join(map(str, range(40))), "--processes", "2", "--threads", "1", "--store", str(place / "own")]
    with subprocess.Popen([*command, *asked], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True) as started:
        while not (line := started.stdout.readline()).startswith(moment):
            assert line, started.stderr.read()
        os.killpg(started.pid, signal.SIGINT)
        _, err = started.communicate(timeout=60)  # until the last of its processes has closed them
    assert started.returncode == 1 and err == "distill: interrupted; finished runs and epochs are kept\n"
    assert len(records.all_records(place / "own")) < 20


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["terminated", "killed"])
def test_what_is_killed_leaves_no_process_behind(place, how):
    (place / "run.py").write_text(INTERRUPTED)
    command = [sys.executable, str(place / "run.py"), "run", "--profile", "smoke", "--temperatures", "none", "--stages", "train"]
    asked = ["--seeds", ",".join(map(str, range(40))), "--processes", "2", "--threads", "1", "--store", str(place / "own")]
    with subprocess.Popen([*command, *asked], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as started:
        while not (line := started.stdout.readline()).startswith("[1/"):
            assert line
        below = psutil.Process(started.pid).children(recursive=True)
        started.send_signal(how)
    assert below and psutil.wait_procs(below, timeout=30)[1] == []
    assert len(records.all_records(place / "own")) < 20


def test_as_many_processes_as_cores_and_memory_allow(monkeypatch, place, capsys):
    asked = []
    monkeypatch.setattr(cluster, "in_processes", lambda count, threads: asked.append((count, threads)) or experiments.one_by_one)
    monkeypatch.setattr(cluster.torch, "get_num_threads", lambda: 6)
    for free, count in ((64e9, 6), (9e9, 3), (1e6, 1)):
        memory = types.SimpleNamespace(free=1e6, available=int(free))  # what caches files is not free, but can be had
        monkeypatch.setattr(cluster.psutil, "virtual_memory", lambda memory=memory: memory)
        assert cluster.best_count() == count
        assert (
            cli.main(
                [
                    "run",
                    "--profile",
                    "smoke",
                    "--dataset",
                    "mnist-5k",
                    "--temperatures",
                    "none",
                    "--stages",
                    "train",
                    "--processes",
                    "auto",
                    "--threads",
                    "1",
                    "--store",
                    str(place / "store"),
                ]
            )
            == 0
        )
    assert asked == [(6, 1), (3, 1)]


def test_growth_adds_up_what_the_records_say(tmp_path):
    for run in plans.plan("smoke", "mnist-5k", ["none", 20]):
        rows = {"parameters": [100], "accuracy": [0.5], "at_chance": [False]} if run["kind"] == "model" else {"success": [True] * 90}
        told = {"wall_seconds": {"model": 3600.0, "attack": 1800.0}[run["kind"]], "threads": 2, "passes": 7}
        records.write(tmp_path, run, pd.DataFrame(rows), columns={}, provenance=told)
    table = cluster.growth(records.all_records(tmp_path), counts=(5, 5000)).set_index("runs")
    assert table.loc[5, ["trainings", "attacks", "passes"]].tolist() == [3, 180, 14]
    assert table.loc[5, "core_hours"] == pytest.approx(3 * 2 + 2 * 1)
    assert table.loc[5000, "core_hours"] == pytest.approx(8000) and table.loc[5000, "passes"] == 14_000
    assert table["chain_hours"].tolist() == [2.5, 2.5]  # teacher, student, attack
    assert table["hours_1024"].tolist() == pytest.approx([2.5, 8000 / 1024])
    with pytest.raises(ValueError, match="there are no records"):
        cluster.growth([])


class Here:
    """What `cluster._computed` asks of Ray, done at once in this process."""

    exceptions = type("exceptions", (), {"RayError": RuntimeError})

    def __init__(self):
        self.results = []

    def put(self, result):
        self.results.append(result)
        return len(self.results) - 1

    def get(self, reference):
        return self.results[reference]

    def wait(self, references):
        return references[:1], references[1:]

    def remote(self, function):
        def task(*given):
            above = given[4:]
            return self.put(function(*given[:4], *map(self.get, above)))

        return type("Task", (), {"options": lambda self, **_: self, "remote": staticmethod(task)})()


def test_a_damaged_record_is_one_failed_run_of_a_cluster(place):
    network, attack, *_ = runs = plans.plan("smoke", "mnist-5k", ["none"], seeds=[0, 1])
    store = place / "many"
    assert experiments.ensure([network], context(store)) == []
    (store / records.key(network) / "record.json").write_text("{")
    (failed,) = experiments.ensure(
        runs[1:], context(store), engine=lambda missing, own: cluster._computed(Here(), missing, own, cluster.Share())
    )
    assert failed.startswith(records.key(attack)) and "is not a record" in failed
    assert all(records.find(run, [store]) for run in runs[2:])


def test_without_ray_one_line_says_what_to_install(place, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main(["run", "--profile", "smoke", "--store", str(place / "store"), "--engine", "ray"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "pip install 'distill-replication[cluster]'" in err


def test_a_cluster_that_loses_a_machine_leaves_the_records_of_one_process(place, data_root, capsys):
    pytest.importorskip("ray", reason="Ray is not installed (optional: pip install 'distill-replication[cluster]')")
    from ray.cluster_utils import Cluster

    runs = plans.plan("smoke", "mnist-5k")
    assert experiments.ensure(runs, context(place / "one")) == []
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        doomed = machines.add_node(num_cpus=1)
        machines.add_node(num_cpus=1)
        said = []

        def say(line):
            said.append(line)
            if len(said) == 3:  # two of eight runs are done, others are on their way
                machines.remove_node(doomed, allow_graceful=False)

        engine = cluster.on_ray(machines.address, cluster.Share(cpus=1, retries=5))
        assert experiments.ensure(runs, context(place / "many", say, data_root=data_root), engine=engine) == []
    finally:
        machines.shutdown()
    assert len(said) == 9 and essence(place / "many") == essence(place / "one")
