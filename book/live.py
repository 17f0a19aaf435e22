"""Write what the live page loads into ``book/extra/live``: the networks' weights, a few test images, and their names.

Run by hand after the networks changed; ``book/build.py`` runs it whenever it executes chapters. The files are
scripts, because a browser loads no other data into a page that was opened from a file.
"""

from __future__ import annotations

import argparse
import base64
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from distill import data, experiments, plans, records

FOLDER = Path(__file__).resolve().parent / "extra" / "live"  # not _static: every page of the book loads all scripts there
TEMPERATURES = ("none", 20, 100)  # the networks shown, where the profile has them
PER_CLASS = 2  # test images shown

Network = tuple[dict[str, object], nn.Module]


def networks(profile: str, store: str | Path | None = None) -> tuple[str, list[Network]]:
    """The MNIST networks of a profile, with what the page says of each, and the data set they were trained on.

    Raises
    ------
    RunError
        If a network has no weights here; nothing is trained.
    """
    chosen = plans.profile(profile).temperatures
    dataset = next(name for name in chosen if data.dataset(name).architecture == "mnist")
    found = []
    for temperature in TEMPERATURES:
        if temperature not in chosen[dataset]:
            continue
        model = experiments.zoo(dataset, temperature, profile=profile, store=store)
        config = plans.plan(profile, dataset, [temperature], stages=["train"])[-1]
        record = records.find(config, records.stores(store), weights=True)
        assert record is not None  # or zoo would have raised
        plain = temperature == "none"
        about = {"name": "plain" if plain else f"t{temperature}", "label": "plain network" if plain else f"student, T={temperature}",
                 "accuracy": float(record.table()["accuracy"].iloc[0]), "record": record.path.name}  # fmt: skip
        found.append((about, model))
    return dataset, found


def first_of_each_class(images: data.Images) -> Tensor:
    """Test indices of the first `PER_CLASS` images of each class, class by class."""
    return torch.cat([(images.y == label).nonzero()[:PER_CLASS, 0] for label in range(10)])


def write(folder: Path, found: list[Network], images: data.Images) -> None:
    """Write ``data.js`` and one script a network.

    Raises
    ------
    ValueError
        If weights or pixels are not what the page stores without loss: float16, and bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shapes: list[list[int]] = []
    for about, model in found:
        tensors = list(model.state_dict().values())
        if not all(torch.equal(tensor, tensor.half().float()) for tensor in tensors):
            raise ValueError(f"the weights of {about['record']} are not float16; allowed are weights that float16 holds exactly")
        shapes = [list(tensor.shape) for tensor in tensors]
        script(folder, str(about["name"]), encoded(b"".join(tensor.contiguous().half().numpy().astype("<f2").tobytes() for tensor in tensors)))
    index = first_of_each_class(images)
    pixels = (images.x[index] * 255).round().byte()
    if not torch.equal(pixels / torch.tensor(255.0), images.x[index]):
        raise ValueError(f"the pixels of {images.name} are not bytes divided by 255, which is all that the page stores")
    shown = [{"index": int(i), "label": int(images.y[i])} for i in index]
    script(folder, "data", {"networks": [about for about, _ in found], "shapes": shapes, "images": shown, "pixels": encoded(pixels.numpy().tobytes())})


def script(folder: Path, name: str, value: object) -> None:
    """Write one value as a script that hands it to the page."""
    (folder / f"{name}.js").write_text(f"distillLive.receive({json.dumps(name)}, {json.dumps(value)});\n")


def encoded(raw: bytes) -> str:
    """Bytes as text."""
    return base64.b64encode(raw).decode()


def export(folder: Path, *, profile: str | None = None, store: str | Path | None = None) -> None:
    """Write the page's data from a profile's networks; without a name from "paper" if its networks are here, else "quick"."""
    if profile is None:
        try:
            networks("paper", store)
            profile = "paper"
        except experiments.RunError:
            profile = "quick"
    dataset, found = networks(profile, store)
    write(folder, found, data.load(dataset, train=False))
    print(f"{folder}: {', '.join(str(about['record']) for about, _ in found)}")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--profile", default=None, choices=list(plans.PROFILES))
    options.add_argument("--store", type=Path, default=None)
    chosen = options.parse_args()
    try:
        export(FOLDER, profile=chosen.profile, store=chosen.store)
    except (experiments.RunError, data.DataError, records.RecordError, ValueError) as error:
        raise SystemExit(f"live.py: {error}") from None
