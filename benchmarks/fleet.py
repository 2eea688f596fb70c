"""What the fleet saves over a plain PyTorch loop, and what it costs itself; written to benchmarks/fleet.md.

    python benchmarks/fleet.py                    # small models on the CPU: about two minutes on two cores
    python benchmarks/fleet.py --device cuda      # large models on one GPU; --data npz:PATH for the row on real data

Each row compares two ways of doing the same work in one run: on a shared machine the ratio says more than the seconds.
The plain loop is what a user would write: one model after the other, torch.optim.SGD, OneCycleLR, as many threads as
torch takes. The fleet's time holds everything: hashing, starting workers, training, the store.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

import unlearnkit as uk
from unlearnkit.fleet import Fleet
from unlearnkit.jobs import ObserveJob, Points, Sets, TrainJob
from unlearnkit.masks import random_halves
from unlearnkit.models import build
from unlearnkit.stacked import fit_stack
from unlearnkit.store import Store
from unlearnkit.train import fit

HERE = Path(__file__).parent


@dataclass
class Row:
    """One line of the table."""

    work: str
    against: str
    plain: float  # seconds
    ours: float
    target: str

    def __str__(self) -> str:
        ratio = self.plain / self.ours
        return (
            f"| {self.work} | {self.against} | {self.plain:.2f} s | {self.ours:.2f} s | {ratio:.1f}× | {self.target} |"
        )


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def plain_loop(recipe: uk.Recipe, examples: uk.Examples, seed: int, device: str = "cpu") -> nn.Module:
    """The loop a user would write."""
    torch.manual_seed(seed)
    model = build(recipe.architecture, seed=seed)
    model.normalize.measure(examples.x)
    model.to(device).train()
    x, y = examples.x.to(device), examples.labels().to(device)
    steps = recipe.epochs * -(-len(x) // recipe.batch_size)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay, nesterov=True
    )
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, total_steps=steps)
    for _ in range(recipe.epochs):
        for rows in torch.randperm(len(x), device=device).split(recipe.batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
            scheduler.step()
    return model


def on_cpu() -> list[str]:
    """The rows for every machine."""
    data = uk.load("digits")
    sets = Sets(data.train, data.test)
    everything = np.arange(len(data.train))
    rows, notes = [], []
    for name, count, target in (("mlp", 64, "≥ 4×"), ("small-cnn", 32, "≥ 1.7×")):
        recipe = uk.Recipe(uk.Architecture(name, 10, (1, 8, 8)))
        plain_loop(replace(recipe, epochs=1), data.train, 0)  # what is loaded at the first step
        plain = timed(lambda r=recipe, n=count: [plain_loop(r, data.train, seed) for seed in range(n)])
        jobs = [TrainJob(f"{name} {seed}", recipe, seed, everything) for seed in range(count)]
        with tempfile.TemporaryDirectory() as folder:
            ours = timed(lambda f=folder, j=jobs: Fleet(sets, Store(f)).run(j))
        rows.append(Row(f"{count} `{name}` on digits", "plain loop, one model after the other", plain, ours, target))
        with tempfile.TemporaryDirectory() as folder:
            fleet = Fleet(sets, Store(folder), processes=1)
            whole = timed(lambda f=fleet, j=jobs: f.run(j))
            pure = sum(fleet.store.record(key)["seconds"] for key in map(fleet.key, jobs))
        notes.append(
            f"| {count} `{name}`, one process | {pure:.2f} s | {whole:.2f} s | {whole / pure - 1:.1%} | ≤ 5 % |"
        )
    text = ["## Small models, CPU", "", "| work | against | plain | fleet | ratio | reach |", "| --- " * 6 + "|"]
    text += [str(row) for row in rows]
    text += [
        "",
        "| hashing, store, scheduling | pure training | fleet | overhead | reach |",
        "| --- " * 5 + "|",
        *notes,
    ]
    text += ["", *_stacks()]
    return text


def _stacks() -> list[str]:
    """Why `stacked.py` stacks what it stacks: how much faster a model trains in a stack than alone, one thread."""
    sizes = (2, 4, 8, 16, 32)
    text = ["Models of one stack, times the speed of training alone (one thread):", ""]
    text += ["| architecture, input | " + " | ".join(map(str, sizes)) + " |", "| --- " * (len(sizes) + 1) + "|"]
    rng = np.random.default_rng(0)
    for shape in ((1, 8, 8), (1, 16, 16), (1, 28, 28), (3, 32, 32)):
        x = torch.from_numpy(rng.integers(0, 256, (640, *shape), dtype=np.uint8))
        examples = uk.Examples(x, torch.arange(640) % 10, np.arange(640).astype(str))
        for name in ("mlp", "small-cnn"):
            recipe = uk.Recipe(uk.Architecture(name, 10, shape), epochs=2)
            alone = min(timed(lambda r=recipe, e=examples: fit(r, e, seed=0)) for _ in range(3))
            cells = []
            for size in sizes:
                rows, seeds = [np.arange(640)] * size, list(range(size))
                stacked = min(
                    timed(lambda r=recipe, e=examples, a=rows, b=seeds: fit_stack(r, e, a, b)) for _ in range(2)
                )
                cells.append(f"{alone * size / stacked:.1f}")
            text.append(f"| `{name}`, {'×'.join(map(str, shape))} | " + " | ".join(cells) + " |")
    return text


def on_cuda(device: str, source: str | None) -> list[str]:
    """The rows for a GPU: seconds per epoch of 50,000 images, batch 512."""
    rng = np.random.default_rng(0)
    x = torch.from_numpy(rng.integers(0, 256, (50_000, 3, 32, 32), dtype=np.uint8))
    examples = uk.Examples(x, torch.arange(50_000) % 10, np.arange(50_000).astype(str))
    text = [f"## Large models, {torch.cuda.get_device_name(device)}", ""]
    text += ["Seconds per epoch, 50,000 images of 3×32×32, batch 512:", ""]
    text += ["| architecture | fp32 eager | ours, eager | ours, compiled | compiling | reach |", "| --- " * 6 + "|"]
    for name, target in (("resnet18-cifar", "≤ 0.5 s"), ("resnet9", "≤ 0.30 s")):
        recipe = uk.Recipe(uk.Architecture(name, 10, (3, 32, 32)), batch_size=512, augment="crop-flip")

        def epoch(train: Callable[[uk.Recipe], object], recipe: uk.Recipe = recipe) -> float:
            """The time of three epochs less the time of one, by half: without set-up."""
            train(replace(recipe, epochs=1))
            one = timed(lambda: train(replace(recipe, epochs=1)))
            return (timed(lambda: train(replace(recipe, epochs=3))) - one) / 2

        eager = epoch(lambda r: plain_loop(r, examples, 0, device))
        ours = epoch(lambda r: fit(r, examples, seed=0, device=device))
        first = timed(lambda r=recipe: fit(replace(r, epochs=1, compiled=True), examples, seed=0, device=device))
        compiled = epoch(lambda r: fit(replace(r, compiled=True), examples, seed=0, device=device))
        text.append(f"| `{name}` | {eager:.2f} s | {ours:.3f} s | {compiled:.3f} s | {first:.0f} s | {target} |")
    if source is not None:
        data = uk.load(source)
        recipe = uk.Recipe(
            uk.Architecture("resnet9", data.num_classes, data.shape), epochs=24, batch_size=512, lr=0.4,
            augment="crop-flip", label_smoothing=0.0, compiled=True,
        )  # fmt: skip
        masks = random_halves(len(data.train), 64, seed=0)
        points = Points(np.arange(len(data.train)), np.arange(len(data.test)))
        jobs = [
            ObserveJob(f"shadow {i}", (TrainJob(f"shadow {i}", recipe, i, np.flatnonzero(mask)),), points,
                       logits=True, keep_weights=False)
            for i, mask in enumerate(masks)
        ]  # fmt: skip
        with tempfile.TemporaryDirectory() as folder:
            fleet = Fleet(Sets(data.train, data.test), Store(folder), device=device)
            keys: list[str] = []
            seconds = timed(lambda: keys.extend(fleet.run(jobs)))
            answers = [fleet.store.map(key)["logits"][0, len(data.train) :, 0].argmax(axis=-1) for key in keys]
        right = float(np.mean([answer == data.test.labels().numpy() for answer in answers]))
        text += [
            "",
            f"64 `resnet9` shadows on halves of {source}, store and observations included: {seconds / 60:.1f} min",
        ]
        text += [f"(reach ≤ 10 min); mean test accuracy {right:.1%}."]
    return text


def main() -> None:
    """Measure and record; what another device recorded before stays."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--device", default="cpu")
    options.add_argument("--data", help="npz:PATH: real images for the row of 64 shadows (CUDA)")
    options.add_argument("--out", type=Path, default=HERE / "fleet.md")
    chosen = options.parse_args()
    on_gpu = chosen.device != "cpu"
    measured = on_cuda(chosen.device, chosen.data) if on_gpu else on_cpu()
    command = "python benchmarks/fleet.py" + (f" --device {chosen.device}" if on_gpu else "")
    measured += [
        "",
        f"Recorded by `{command}`: {os.cpu_count()} CPU cores ({platform.machine()}), torch {torch.__version__}.",
    ]
    parts = chosen.out.read_text().split("\n## ") if chosen.out.exists() else ["# The fleet\n"]
    kept = [part for part in parts[1:] if not part.startswith(measured[0].removeprefix("## ")[:5])]
    text = "\n## ".join([parts[0], *kept, "\n".join(measured).removeprefix("## ") + "\n"])
    if not on_gpu and "\n## Large models" not in text:
        command = "python benchmarks/fleet.py --device cuda --data npz:PATH"
        text += f"\n## Large models, GPU\n\nNot measured yet: `{command}` does it.\n"
    chosen.out.write_text(text)
    print("\n".join(measured))


if __name__ == "__main__":
    main()
