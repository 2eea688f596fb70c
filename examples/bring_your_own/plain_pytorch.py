"""A plain PyTorch training script, and the three functions by which unlearnkit uses it: `data`, `Net` and `train`."""

import argparse

import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import unlearnkit  # for the audit

# ---- The script as it was


class Net(nn.Module):
    """Takes images in [0, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
        self.classifier = nn.Linear(16 * 4 * 4, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images [n, 1, 8, 8] to logits [n, 10]."""
        return self.classifier(self.features(x))


def fit(net: nn.Module, examples: Dataset, *, epochs: int, generator: torch.Generator) -> None:
    """The loop."""
    optimizer = torch.optim.Adam(net.parameters(), lr=0.003)
    for _ in range(epochs):
        for x, y in DataLoader(examples, batch_size=64, shuffle=True, generator=generator):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(x), y).backward()
            optimizer.step()


def data() -> tuple[Dataset, Dataset]:
    """Training and test set: anything with a length that gives (image, label)."""
    digits = load_digits()
    x, y = torch.tensor(digits.images / 16, dtype=torch.float32)[:, None], torch.tensor(digits.target)
    return TensorDataset(x[:1437], y[:1437]), TensorDataset(x[1437:], y[1437:])


def main() -> None:
    """Train and save."""
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--epochs", type=int, default=10)
    epochs = arguments.parse_args().epochs
    generator = torch.Generator().manual_seed(0)
    net = Net()
    fit(net, data()[0], epochs=epochs, generator=generator)
    torch.save(net.state_dict(), "plain_pytorch.pt")


# ---- Added for the audit


def train(recipe: unlearnkit.Recipe, examples: unlearnkit.Examples, *, seed: int) -> nn.Module:
    """Called for every model that is trained anew: a `Net` as unlearnkit builds it, and the same loop."""
    net = unlearnkit.build(recipe.architecture, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    fit(net, TensorDataset(examples.x, examples.y), epochs=recipe.epochs, generator=generator)
    return net


if __name__ == "__main__":
    main()
