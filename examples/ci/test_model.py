"""Tests of the model, beside those that the ledger brings: `pytest` alone runs both (see pytest.ini)."""

from pathlib import Path

import torch

import unlearnkit as uk


def test_the_model_still_reads_the_other_digits() -> None:
    """Nine classes are left, and they are still told apart."""
    weights = Path(__file__).parent / "model.safetensors"
    model = uk.load_model(weights, uk.Architecture("mlp", classes=10, shape=(1, 8, 8)))
    test = uk.load("digits").test
    kept = test.labels() != 3
    with torch.no_grad():
        right = (model(test.x[kept]).argmax(1) == test.labels()[kept]).float().mean()
    assert right > 0.9
