"""A torchvision model trained in the usual way: unlearnkit needs its name and its state dict, no code."""

import argparse

import torch
import torchvision
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

Pair = tuple[TensorDataset, TensorDataset]


def data(examples: int = 1437) -> Pair:
    """Training and test set: the digits as color images of 32 by 32 pixels in [0, 1]."""
    digits = load_digits()
    x = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None].repeat(1, 3, 1, 1)
    x, y = nn.functional.interpolate(x, size=32), torch.tensor(digits.target)
    return TensorDataset(x[:examples], y[:examples]), TensorDataset(
        x[1437 : 1437 + examples], y[1437 : 1437 + examples]
    )


def few() -> Pair:
    """A tenth of it, to see that everything fits together."""
    return data(144)


def main() -> None:
    """Train and save."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--epochs", type=int, default=10)
    arguments.add_argument("--few", action="store_true")
    given = arguments.parse_args()
    net = torchvision.models.shufflenet_v2_x0_5(num_classes=10)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    loader = DataLoader((few if given.few else data)()[0], batch_size=48, shuffle=True)
    for _ in range(given.epochs):
        for x, y in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()
    torch.save(net.state_dict(), "torchvision_model.pt")


if __name__ == "__main__":
    main()
