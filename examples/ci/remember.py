"""A later release goes wrong: somebody fine-tunes the model on an old copy of the data, the deleted class included."""

from pathlib import Path

import torch
from torch.nn import functional

import unlearnkit as uk

here = Path(__file__).parent
architecture = uk.Architecture("mlp", classes=10, shape=(1, 8, 8))
model = uk.load_model(here / "model.safetensors", architecture).train()
train = uk.load("digits").train
optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
shuffle = torch.Generator().manual_seed(0)
for _ in range(2):
    for rows in torch.randperm(len(train), generator=shuffle).split(64):
        optimizer.zero_grad()
        functional.cross_entropy(model(train.x[rows]), train.labels()[rows]).backward()
        optimizer.step()
uk.save_model(here / "model.safetensors", model.eval(), architecture)
print("model.safetensors: trained on all digits again, the deleted class included")
