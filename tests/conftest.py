"""Shared fixtures: tiny separable images, and modules written for one test that an import path can name."""

from __future__ import annotations

import random
import signal
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import numpy as np
import pytest
import torch

if TYPE_CHECKING:
    from unlearnkit.types import Examples

ROOT = Path(__file__).parents[1]
ROOMS = ("attacks", "audits", "reports")  # beside the package, and reached through it


def shaped() -> list[str]:
    """Modules whose arrays have shapes in their annotations.

    Only these are checked while the tests run, which doubles the time of what is checked; plain types are for mypy.
    """
    found = []
    for room in (ROOT / "unlearnkit", *(ROOT / room for room in ROOMS)):
        for path in sorted(room.rglob("*.py")):
            if not path.is_symlink() and "jaxtyping" in path.read_text():
                parts = [part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"]
                found.append(".".join(parts if parts[0] == "unlearnkit" else ("unlearnkit", *parts)))
    return found


# Before the first import of the package.
jaxtyping.install_import_hook(shaped(), "beartype.beartype")

torch.set_num_threads(1)  # as every training does: with more, sums by hand differ from it in the last bits

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started in the background of a shell, which children inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The longest files begin first, so that two processes end together; the others follow in their own order.
LONGEST = ("examples_ci", "cli", "audit", "battery", "selftest", "verify", "fleet", "ray", "readme", "check", "report")

MakeBlobs = Callable[..., "Examples"]
WriteModule = Callable[[str, str], str]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of `LONGEST` first."""
    place = {f"test_{name}": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session")
def blobs() -> MakeBlobs:
    """blobs(n, seed=0, classes=3, prefix="train", side=8): uint8 images, a bright quarter says the class."""

    from unlearnkit.types import Examples

    def make(n: int, seed: int = 0, classes: int = 3, prefix: str = "train", side: int = 8) -> Examples:
        rng = np.random.default_rng(seed)
        y = np.arange(n) % classes
        x = rng.integers(0, 90, (n, 1, side, side))
        half = side // 2
        for row, label in enumerate(y):
            top, left = divmod(int(label), 2)
            x[row, 0, top * half : (top + 1) * half, left * half : (left + 1) * half] += 120
        ids = np.array([f"{prefix}/{row}" for row in range(n)])
        return Examples(torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y.astype(np.int64)), ids)

    return make


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteModule]:
    """write_module(name, source): the module lies in the working directory for this test; returns its name."""
    written: list[str] = []
    monkeypatch.chdir(tmp_path)

    def write(name: str, source: str) -> str:
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(source))
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


@pytest.fixture(autouse=True)
def _same_elements() -> None:
    """The type checks look at one element of each container, drawn from this state: the same ones in every run."""
    random.seed(0)


@pytest.fixture
def as_users_run() -> Iterator[None]:
    """Without the shape checks of the test run, as for users: then our own sentences must catch the mistake."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
