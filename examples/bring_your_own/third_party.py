"""Stands for somebody else: writes the files that a provider hands over after a deletion.

`original.pt` and `unlearned.pt` are state dicts, `forget.txt` names the deleted examples by their ids. How the model
was unlearned is the provider's secret; here it is a few steps of gradient ascent.
"""

import copy
from pathlib import Path

import plain_pytorch
import torch
from torch import nn

import unlearnkit

FORGET = slice(0, 100)


def main() -> None:
    """Train, unlearn, write the files."""
    examples = unlearnkit.load("plain_pytorch:data").train
    generator = torch.Generator().manual_seed(0)
    original = plain_pytorch.Net()
    plain_pytorch.fit(original, plain_pytorch.data()[0], epochs=10, generator=generator)
    unlearned = copy.deepcopy(original)
    optimizer = torch.optim.SGD(unlearned.parameters(), lr=0.01)
    x, y = plain_pytorch.data()[0][FORGET]
    for _ in range(5):
        optimizer.zero_grad()
        (-nn.functional.cross_entropy(unlearned(x), y)).backward()
        optimizer.step()
    torch.save(original.state_dict(), "original.pt")
    torch.save(unlearned.state_dict(), "unlearned.pt")
    Path("forget.txt").write_text("".join(f"{one}\n" for one in examples.ids[FORGET]), encoding="utf-8")


if __name__ == "__main__":
    main()
