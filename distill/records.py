"""The results store: one folder a run, written atomically, verified when it is read.

A record is ``<store>/<key>/`` with ``record.json`` (configuration, provenance, hashes), ``table.parquet``
(the rows that the run measured) and, for a trained network, ``weights.safetensors``. The key ends in the
hash of the whole configuration, so a changed parameter is a new run and never a stale hit.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import pandas as pd
import platformdirs
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from distill import data

SCHEMA = 1
KINDS = ("model", "attack", "prediction", "sensitivity", "neighbour", "stop", "diagnosis", "benchmark")
IDENTITY = ("dataset", "profile", "role", "temperature", "seed")  # of a run, as columns of its table too
MEASURED = {"model": {"accuracy", "at_chance"}, "attack": {"success"}}  # columns without which a table is not of its kind
VERSIONS = ("python", "torch", "numpy")
PUBLISHED = Path(__file__).resolve().parent.parent / "results"
ZOO = PUBLISHED.parent / "zoo"  # weights of published networks, one file each
WEIGHTS = "weights.safetensors"
CHECKPOINT = "checkpoint.safetensors"
LONGEST_NAME = 200  # letters of a key before its hash; file systems allow 255 in all
RECORD_NAME = re.compile(r"^[^.].*-[0-9a-f]{12}$")
FILES = ("table.parquet", WEIGHTS)


class RecordError(RuntimeError):
    """A record that cannot be read, is not what its key says, or is not there."""


class StoreError(RecordError):
    """A store that cannot be written, so that no further run can leave a record."""


@dataclass(frozen=True)
class Record:
    """A finished run: its folder and what ``record.json`` says."""

    path: Path
    info: Mapping[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return self.info["config"]

    @property
    def columns(self) -> dict[str, Any]:
        """Columns that have one value for the whole run."""
        named = {} if self.config["kind"] == "benchmark" else {name: self.config[name] for name in IDENTITY if name in self.config}
        columns = {**named, **self.info["columns"]}
        if self.config["kind"] == "attack":  # of which records of an older version give some, others not
            columns |= {
                "flush": bool(self.config.get("flush")),
                "product": bool(self.config.get("product")),
                "draw": draw_name(self.config),
            }
        return columns

    def table(self) -> pd.DataFrame:
        """The run's rows, with the columns that its configuration fixes."""
        return joined([self])

    def _rows(self) -> pd.DataFrame:
        """What the run measured, checked."""
        measured = MEASURED.get(self.config["kind"], set())
        try:
            frame = pd.read_parquet(self.path / "table.parquet")
        except Exception as error:  # a damaged file whose hash was made to fit; pandas and Arrow raise what they like
            raise RecordError(f"{self.path / 'table.parquet'} cannot be read: {' '.join(str(error).split())[:200]}") from None
        if twice := {*self.columns, "record"} & set(frame.columns):
            raise RecordError(f"{self.path} gives the column {sorted(twice)[0]!r} twice: measured, and as one value for the whole run")
        if len(frame) == 0 or not measured <= set(frame.columns):
            raise RecordError(f"{self.path / 'table.parquet'} has no {', '.join(sorted(measured - set(frame.columns))) or 'rows'}")
        return frame

    def weights(self) -> dict[str, Tensor]:
        """The trained network's tensors by name."""
        path = _weights_file(self.path)
        if path is None:
            raise RecordError(f"{self.path} has no weights here; remove the folder to train the network anew")
        if _sha256(path) != self.info["sha256"].get(WEIGHTS):
            raise RecordError(f"{path} is torn or altered: its SHA-256 is not the one in record.json")
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise RecordError(f"{path} is no safetensors file: {error}") from None


def joined(found: Sequence[Record]) -> pd.DataFrame:
    """The rows of runs of one kind, one run below the other, with the columns that each run's configuration fixes.

    Raises
    ------
    RecordError
        If a table cannot be read, has no rows, lacks a column of its kind, or measures a column that the configuration fixes.
    """
    measured = [record._rows() for record in found]
    fixed = [{**record.columns, "record": record.path.name} for record in found]
    names = {name for frame in measured for name in frame}
    for frame, values in zip(measured, fixed, strict=True):
        for name in [name for name in values if name in names]:  # fixed for this run, measured by another
            frame[name] = values.pop(name)
    of_run = np.repeat(np.arange(len(found)), [len(frame) for frame in measured])
    return pd.concat([pd.concat(measured, ignore_index=True), pd.DataFrame(fixed).take(of_run).reset_index(drop=True)], axis=1)


def own_store() -> Path:
    """A person's own store: ``DISTILL_STORE``, else a folder outside the repository."""
    return data.folder(os.environ.get("DISTILL_STORE") or platformdirs.user_data_path("distill") / "records", "DISTILL_STORE")


def canonical(config: Mapping[str, Any]) -> str:
    """A configuration as JSON with one spelling, which is what is hashed."""
    return json.dumps(config, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key(config: Mapping[str, Any]) -> str:
    """A run's name: readable words and the first 12 digits of the SHA-256 of its configuration.

    ``config`` needs ``kind``, ``dataset``, ``profile``, ``role``, ``temperature`` and ``seed``.
    """
    digest = hashlib.sha256(canonical(config).encode()).hexdigest()[:12]
    words = [config["dataset"], config["profile"], config["kind"], config.get("attack", ""), config["role"],
             f"T{config['temperature']:g}", f"s{config['seed']}"]  # fmt: skip
    return re.sub(r"[^A-Za-z0-9.+_-]+", "_", "-".join(word for word in words if word)).lower().strip("_.")[:LONGEST_NAME] + f"-{digest}"


def find(config: Mapping[str, Any], stores: list[Path], *, weights: bool = False) -> Record | None:
    """The record of a configuration in the first store that has it, verified; ``None`` where none has.

    With ``weights``, records that were published without their weights do not count.
    """
    for store in stores:
        path = store / key(config)
        if os.path.lexists(path) and (not weights or _weights_file(path)):
            record = read(path)
            if canonical(record.config) != canonical(config):
                raise RecordError(f"{path} is the record of another configuration")
            return record
    return None


def read(path: Path, *, name: str | None = None) -> Record:
    """Read and verify one record; ``name`` is its key where the folder is not called so yet.

    Raises
    ------
    RecordError
        If a file is missing, torn or altered, the schema is unknown, or the key does not match.
    """
    try:
        info = json.loads((path / "record.json").read_text())
        if not isinstance(info, dict) or info.get("schema") != SCHEMA:
            raise RecordError(
                f"{path} has the schema {info.get('schema') if isinstance(info, dict) else None}; this version reads {SCHEMA}"
            )
        missing = {name for name in ("config", "columns", "provenance", "sha256") if not isinstance(info.get(name), dict)}
        if missing or "table.parquet" not in info["sha256"]:
            raise RecordError(f"{path} is not a record: record.json lacks {', '.join(sorted(missing)) or 'the hash of table.parquet'}")
        made, config = info["provenance"], info["config"]
        seconds, versions = made.get("wall_seconds"), made.get("versions")
        odd = {
            "wall_seconds": isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf,
            "versions": not isinstance(versions, dict) or not all(isinstance(versions.get(name), str) for name in VERSIONS),
            "finished, processor or source_sha256": not all(
                isinstance(made.get(w), str) for w in ("finished", "processor", "source_sha256")
            ),
            "kind": config["kind"] not in KINDS,
            "dataset, profile or role": not all(isinstance(config[word], str) for word in ("dataset", "profile", "role")),
            "seed, images or threads": not (
                _whole(config["seed"], 0) and _whole(config.get("images", 1), 1) and _whole(made.get("threads"), 1)
            ),
            "draw": not isinstance(draw_name(config), str),
            "columns": any(isinstance(value, list | dict) for value in info["columns"].values()),
        }
        if any(odd.values()):
            raise RecordError(f"{path} is not a record: what it has as {next(name for name in odd if odd[name])} is none")
        if key(config) != (name or path.name):
            raise RecordError(f"{path} does not hold the configuration that its name says")
        for column, value in info["columns"].items():
            if config.get(column, value) != value:
                raise RecordError(f"{path} has the column {column!r} as {value!r} and in its configuration {config[column]!r}")
        for file, expected in info["sha256"].items():
            if file not in FILES:
                raise RecordError(f"{path} names an unknown file {file!r}")
            if file == WEIGHTS and not (path / file).exists():
                continue  # published records have them in the zoo or leave them out
            if _sha256(path / file) != expected:
                raise RecordError(f"{path / file} is torn or altered: its SHA-256 is not the one in record.json; "
                                  "remove the folder to compute the run anew")  # fmt: skip
    except FileNotFoundError as error:
        if path.is_symlink() and not path.exists():
            raise RecordError(f"{path} is a link that leads nowhere; remove it, or put the record back where it leads") from None
        raise RecordError(f"{path} is torn: {Path(error.filename).name} is missing") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"{path} is not a record: {type(error).__name__}: {error}") from None
    return Record(path, info)


def _whole(given: object, low: int) -> bool:
    return isinstance(given, int) and not isinstance(given, bool) and given >= low


def write(
    store: Path,
    config: Mapping[str, Any],
    table: pd.DataFrame,
    *,
    columns: Mapping[str, Any],
    provenance: Mapping[str, Any],
    weights: Mapping[str, Tensor] | None = None,
) -> Record:
    """Write a record in one move: readers see all of it or nothing.

    Parameters
    ----------
    store : Path
    config : mapping
        What the run is; its hash is part of the key.
    table : DataFrame
        What was measured, without constant columns.
    columns : mapping
        Columns that have one value for the whole run.
    provenance : mapping
        What is not part of the run's identity: seconds, passes, device, ...
    weights : mapping of str to Tensor, optional

    Returns
    -------
    Record
        The new record, or the equal one that another process finished first.

    Raises
    ------
    StoreError
        If the store cannot be written.
    """
    with _staged(store, key(config)) as staging:
        table.to_parquet(staging / "table.parquet", index=False, compression="zstd")
        if weights is not None:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, staging / WEIGHTS)
        info = {
            "schema": SCHEMA, "config": config, "columns": columns,
            "provenance": {**environment(), **provenance},
            "sha256": {name: _sha256(staging / name) for name in FILES if (staging / name).exists()},
        }  # fmt: skip
        (staging / "record.json").write_text(json.dumps(info, indent=1, sort_keys=True, allow_nan=False) + "\n")
    return read(store / key(config))


@contextlib.contextmanager
def _staged(store: Path, name: str) -> Iterator[Path]:
    """A folder to fill, which then becomes the record ``name`` in one move, unless another process was first with it.

    It lies in the run's work folder, so that what a killed process leaves goes when the run is done.
    """
    work = store / ".work" / name
    try:
        staging = _new_part(work)
    except OSError as error:
        raise _cannot_write(store, error) from None
    try:
        yield staging
        for file in staging.iterdir():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
            file.chmod(0o644)  # safetensors makes its file the writer's alone
        staging.chmod(0o755)
        os.rename(staging, store / name)
    except (OSError, SafetensorError) as error:  # a full disk may come as the latter
        if not (store / name).exists():
            raise _cannot_write(store, error) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        lock = store / ".work" / f"{name}.lock"
        alone = filelock.FileLock(lock, timeout=0) if lock.exists() else contextlib.nullcontext()
        with contextlib.suppress(OSError, filelock.Timeout), alone:
            work.rmdir()  # unless a process that computes the run holds it


def _new_part(work: Path) -> Path:
    """A new folder in a run's work folder, which another process that is done with the run may take away at any time."""
    for _ in range(100):
        work.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            return Path(tempfile.mkdtemp(dir=work, prefix="part-"))
    raise FileNotFoundError(f"{work} is taken away again and again")


def _cannot_write(store: Path, error: Exception) -> StoreError:
    return StoreError(f"cannot write to the store {store}: {getattr(error, 'strerror', None) or error}; name another by --store")


def pack(record: Record) -> dict[str, bytes]:
    """A record's files by name, to be sent to another machine; with its weights, wherever they are."""
    files = {name: (record.path / name).read_bytes() for name in ("record.json", "table.parquet")}
    weights = _weights_file(record.path)
    return files | ({WEIGHTS: weights.read_bytes()} if weights else {})


def unpack(store: Path, name: str, files: Mapping[str, bytes]) -> Record:
    """Write what `pack` gave into a store, in one move, and verify it there.

    Raises
    ------
    RecordError
        If the store cannot be written, or the files are not the record of that name.
    """
    try:
        with _staged(store, name) as staging:
            for file in ("record.json", *FILES):
                if file in files:
                    (staging / file).write_bytes(files[file])
            read(staging, name=name)
    except RecordError:
        if not (store / name).exists():  # else a process that computed the run was first, and tidied up
            raise
    return read(store / name)


def draw_name(config: Mapping[str, Any]) -> str:
    """What sets an attack apart that is not part of a comparison; "" for those that are."""
    if config.get("attack") == "suite":
        return f"{config['draw']} suite" if "draw" in config else f"suite, targets {config['targets']}"
    return config.get("draw") or ("sweep" if "sweep" in config else "")


def publish(record: Record, *, weights: bool = False) -> Path:
    """Copy a record into the published ones, and its weights into the zoo if asked. What is there already stays.

    Raises
    ------
    RecordError
        If another result of the same run is published: remove that first if this one is to take its place. Or if it cannot be written.
    """
    try:
        return _published(record, weights)
    except OSError as error:
        raise RecordError(f"cannot publish {record.path} in {PUBLISHED}: {error.strerror or error}") from None


def _published(record: Record, weights: bool) -> Path:
    target = PUBLISHED / record.path.name
    PUBLISHED.mkdir(exist_ok=True)
    if not target.exists():
        staging = Path(tempfile.mkdtemp(dir=PUBLISHED, prefix=".part-"))
        try:
            for name in ("record.json", "table.parquet"):
                shutil.copy(record.path / name, staging / name)
            staging.chmod(0o755)
            try:
                os.rename(staging, target)
            except OSError:
                if not target.exists():  # else another process published it meanwhile
                    raise
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    if read(target).info["sha256"] != record.info["sha256"]:
        raise RecordError(f"{target} holds another result of this run; remove it to publish {record.path} in its place")
    stored = ZOO / f"{record.path.name}.safetensors"
    if weights and not stored.exists() and (source := _weights_file(record.path)):
        ZOO.mkdir(exist_ok=True)
        part = ZOO / f".{record.path.name}.{os.getpid()}.part"
        try:
            shutil.copy(source, part)
            os.replace(part, stored)
        finally:
            part.unlink(missing_ok=True)
    return target


def _weights_file(record: Path) -> Path | None:
    """Where a record's weights are: in its own folder or, if it is published, in the zoo."""
    places = [record / WEIGHTS, *([ZOO / f"{record.name}.safetensors"] if record.parent == PUBLISHED else [])]
    return next((place for place in places if place.exists()), None)


@contextlib.contextmanager
def claim(store: Path, config: Mapping[str, Any]) -> Iterator[Path]:
    """Hold a run against other processes while it is computed.

    Yields a folder for its unfinished work. The lock is the operating system's and goes with the process.
    """
    work = store / ".work" / key(config)
    lock = filelock.FileLock(store / ".work" / f"{key(config)}.lock")
    try:
        work.mkdir(parents=True, exist_ok=True)
        lock.acquire()
        work.mkdir(parents=True, exist_ok=True)  # the process before us may have tidied it away
    except OSError as error:
        raise _cannot_write(store, error) from None
    try:
        yield work
    finally:
        lock.release()


def running(store: Path, config: Mapping[str, Any]) -> bool:
    """Whether some process holds this run now."""
    path = store / ".work" / f"{key(config)}.lock"
    if not path.exists():
        return False
    for _ in range(5):  # another process may be asking too, for an instant
        try:
            with filelock.FileLock(path, timeout=0):
                return False
        except filelock.Timeout:
            time.sleep(random.uniform(0, 0.01))
        except OSError:
            return False
    return True


def begun(store: Path, config: Mapping[str, Any]) -> bool:
    """Whether an interrupted process left a checkpoint of this run, from which the next one goes on."""
    return (store / ".work" / key(config) / CHECKPOINT).exists()


def stores(store: str | os.PathLike | None = None) -> list[Path]:
    """Where to look for records: ``store`` alone if given, else the published records, then a person's own."""
    if store == "":
        raise ValueError("store is empty; allowed is a folder")
    return [data.folder(store, "store")] if store else [PUBLISHED, own_store()]


def named(name: str, store: str | os.PathLike | None = None) -> Record:
    """The record of that name, verified.

    Raises
    ------
    RecordError
        If no store has it.
    """
    for folder in stores(store):
        if (folder / name).is_dir():
            return read(folder / name)
    raise RecordError(f"there is no record {name!r} in {', '.join(map(str, stores(store)))}")


def all_records(store: str | os.PathLike | None = None, *, damaged: Callable[[RecordError], object] | None = None) -> list[Record]:
    """Every record in the stores, verified; of two with one key the first store's.

    Parameters
    ----------
    store : path, optional
        See `stores`.
    damaged : callable, optional
        Told of each record that cannot be read, which is left out; without it the first is an error.

    Raises
    ------
    RecordError
        If a record is torn, altered or of another schema, and ``damaged`` is not given.
    """
    found: dict[str, Record] = {}
    for folder in stores(store):
        for path in sorted(folder.iterdir()) if folder.is_dir() else []:
            if RECORD_NAME.search(path.name) and path.is_dir() and path.name not in found:
                try:
                    found[path.name] = read(path)
                except RecordError as error:
                    if damaged is None:
                        raise
                    damaged(error)
    return list(found.values())


def load(
    dataset: str | None = None, profile: str | None = None, kind: str = "model", *, store: str | os.PathLike | None = None, **where: Any
) -> pd.DataFrame:
    """Load the rows of all records that match, as one table.

    Parameters
    ----------
    dataset, profile : str, optional
        Without them, all.
    kind : {"model", "attack", "prediction", "sensitivity", "neighbour", "stop", "diagnosis", "benchmark"}
        What a row is: a trained network; one attack on one image; what a network says of one test image; the derivatives at
        one; the nearest training image of one; one attack that stopped short; a flag of `distill.checks`; one measurement of speed.
    store : path, optional
        See `stores`.
    **where
        Further columns that one value is fixed for a whole run, such as ``seed=0`` or ``attack="jsma"``.

    Returns
    -------
    DataFrame
        Empty where nothing matches. The column ``record`` names the record of a row.

    Raises
    ------
    RecordError
        If a record is torn, altered or of another schema.
    ValueError
        If the kind is unknown, or no record anywhere has a column of ``where``.
    """
    if kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; allowed are {', '.join(KINDS)}")
    there = all_records(store)
    known = sorted({*IDENTITY, *(name for record in there for name in record.columns)})
    for name in where if there else ():
        if name not in known:
            raise ValueError(f"no record has the column {name!r}; allowed are {', '.join(known)}")
    wanted = {name: value for name, value in {"dataset": dataset, "profile": profile, **where}.items() if value is not None}
    chosen = [
        record
        for record in there
        if record.config["kind"] == kind and all(record.columns.get(name) == value for name, value in wanted.items())
    ]
    return joined(chosen) if chosen else pd.DataFrame()


# --- provenance ------------------------------------------------------------------------------------------


def provenance(names: Iterable[str], store: str | os.PathLike | None = None) -> pd.DataFrame:
    """What a reader must know of the runs behind a page, a row a record: what ran, when, how long, on what, with which versions and hashes.

    Parameters
    ----------
    names : sequence of str
        Names of records, as in the column ``record`` of every table.
    store : path, optional
        See `records.stores`.
    """
    wanted = list(dict.fromkeys(names))
    rows = []
    for name in wanted:
        record = named(name, store)
        made = record.info["provenance"]
        rows.append({
            "record": name,
            "seconds": round(made["wall_seconds"], 1),
            "precision": made.get("dtype", ""),
            "device": made.get("device", ""),
            "processor": made["processor"],
            "threads": made.get("threads", ""),
            "torch": made["versions"]["torch"],
            "finished": made["finished"],
            "package source": made["source_sha256"][:12],
        })  # fmt: skip
    return pd.DataFrame(rows)


@functools.cache
def source_hash() -> str:
    """SHA-256 over the package's source files, by name and content."""
    digest = hashlib.sha256()
    folder = Path(__file__).parent
    for path in sorted(folder.rglob("*.py")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def environment() -> dict[str, Any]:
    """What a result may depend on beside its configuration: versions, machine, threads."""
    return {
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"python": platform.python_version(),
                     **{name: importlib.metadata.version(name) for name in ("torch", "numpy", "pandas")}},
        "source_sha256": source_hash(),
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip


@functools.cache
def processor() -> str:
    """The processor's name, as the operating system tells it."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text().splitlines():
                if line.startswith("model name"):
                    return " ".join(line.split(":", 1)[1].split())
    return platform.processor() or platform.machine()


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
