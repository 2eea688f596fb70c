"""Rounding and pruning: what changes is what was asked for, to the last weight, and nothing else."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from unlearnkit.compress import pruned, quantized, smallest
from unlearnkit.methods.steps import largest
from unlearnkit.models import Architecture, build
from unlearnkit.result import UsageError
from unlearnkit.train import not_finite


def small_cnn() -> nn.Module:
    return build(Architecture("small-cnn", 3, (1, 8, 8)), seed=1)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def is_weight(name: str, value: torch.Tensor) -> bool:
    return name.endswith("weight") and value.ndim > 1


def all_weights(model: nn.Module) -> torch.Tensor:
    return torch.cat([v.flatten() for name, v in model.state_dict().items() if is_weight(name, v)])


@pytest.mark.parametrize("bits", range(2, 9))
def test_rounding_leaves_few_values_and_moves_each_by_half_a_step(bits: int):
    model = small_cnn()
    before, after = state(model), state(quantized(model, bits=bits))
    assert any(is_weight(name, value) for name, value in before.items())
    for name, value in before.items():
        if not is_weight(name, value):
            assert torch.equal(after[name], value), name
            continue
        for old, new in zip(value, after[name], strict=True):
            step = old.abs().max() / (2 ** (bits - 1) - 1)
            assert len(new.unique()) <= 2**bits - 1
            assert (new - old).abs().max() <= step / 2 * 1.0001
            assert torch.allclose(new / step, (new / step).round(), atol=1e-4)
            assert new.abs().max() == old.abs().max()  # the ends of the range are kept


def test_rounding_by_hand():
    layer = nn.Linear(4, 3, bias=False)
    layer.weight.data = torch.tensor([[0.7, -0.26, 0.1, 0.04], [7.0, 3.4, -3.6, 0.4], [0.0, 0.0, 0.0, 0.0]])
    rounded = quantized(layer, bits=4).get_parameter("weight")
    assert torch.allclose(rounded, torch.tensor([[0.7, -0.3, 0.1, 0.0], [7.0, 3.0, -4.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))


def test_rounding_twice_is_rounding_once():
    once = quantized(small_cnn(), bits=4)
    twice = quantized(once, bits=4)
    for name, value in once.state_dict().items():
        assert torch.allclose(twice.state_dict()[name], value, atol=1e-7), name


def test_transposed_convolutions_round_by_their_output_channel():
    layer = nn.ConvTranspose2d(2, 3, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 2.0, 4.0], [4.0, 5.0, 6.0]]).view(2, 3, 1, 1)
    rounded = quantized(layer, bits=2).get_parameter("weight").view(2, 3)
    assert rounded.tolist() == [[0.0, 0.0, 6.0], [4.0, 5.0, 6.0]]  # each column has a step of its own


def test_attention_is_rounded_and_pruned():
    layer = nn.MultiheadAttention(4, 2)
    assert len(quantized(layer, bits=2).get_parameter("in_proj_weight")[0].unique()) <= 3
    zeros = sum(int((p == 0).sum()) for p in pruned(layer, share=0.5).parameters() if p.ndim > 1)
    assert zeros == (3 * 16 + 16) // 2


@pytest.mark.parametrize("share", [0.0, 0.1, 0.29, 0.5, 0.9, 0.999])
def test_pruning_removes_exactly_the_smallest(share: float):
    model = small_cnn()
    before, after = all_weights(model), all_weights(pruned(model, share=share))
    gone = after == 0
    assert int(gone.sum()) == int(round(share * 1000) * len(before) // 1000)
    assert torch.equal(after[~gone], before[~gone])
    if gone.any():
        assert before[gone].abs().max() <= before[~gone].abs().min()
    for name, value in pruned(model, share=share).state_dict().items():
        if not is_weight(name, value):
            assert torch.equal(value, model.state_dict()[name]), name


def test_selecting_is_sorting():
    sizes = torch.randint(0, 9, (200,), generator=torch.Generator().manual_seed(0)).float()
    for count in range(201):
        assert torch.equal(smallest(sizes, count), ~largest(sizes, 200 - count))


def test_weights_that_two_layers_share_count_once():
    first = nn.Linear(4, 4, bias=False)
    second = nn.Linear(4, 4, bias=False)
    second.weight = first.weight
    result = pruned(nn.Sequential(first, second), share=0.5)
    assert int((result.get_parameter("0.weight") == 0).sum()) == 8


def test_the_model_stays_as_it_was():
    model = small_cnn()
    before = copy.deepcopy(model).state_dict()
    for changed in (quantized(model, bits=2), pruned(model, share=0.9)):
        assert not_finite(changed) is None
        assert not torch.equal(all_weights(changed), all_weights(model))
        assert not {p.data_ptr() for p in changed.parameters()} & {p.data_ptr() for p in model.parameters()}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_refusals():
    model = small_cnn()
    for bits in (1, 9):
        with pytest.raises(UsageError, match=f"quantized: bits must be 2 to 8, got {bits}"):
            quantized(model, bits=bits)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(UsageError, match=r"pruned: share must be at least 0 and below 1 .*, got"):
            pruned(model, share=share)
    with pytest.raises(UsageError, match="quantized: ReLU has no convolution or linear layer to change"):
        quantized(nn.ReLU(), bits=4)
