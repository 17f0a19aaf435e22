from pathlib import Path

import matplotlib
import pytest
import torch

from distill import data


@pytest.fixture(scope="session", autouse=True)
def _one_generator_state():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _one_style():
    """No test draws in the style that another has set."""
    with matplotlib.rc_context():
        yield


@pytest.fixture(scope="session")
def data_root(tmp_path_factory) -> Path:
    """A data folder of the tests' own, with the digits that need no network."""
    root = tmp_path_factory.mktemp("data")
    data.fetch(data.dataset("mnist-5k"), root)
    return root


@pytest.fixture(scope="session")
def digits(data_root) -> data.Images:
    return data.load("mnist-5k", train=False, root=data_root)


def pytest_collection_modifyitems(items):
    """The longest files first, so that no process of pytest-xdist is left with one at the end."""
    longest = ["test_book.py", "test_build.py", "test_experiments.py"]
    items.sort(key=lambda item: longest.index(item.path.name) if item.path.name in longest else len(longest))
