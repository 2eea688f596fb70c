"""Treatments: each name is the treatment that it says, on a copy, the same every time; other names are refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from unlearnkit.compress import pruned, quantized
from unlearnkit.models import Architecture, build
from unlearnkit.result import UsageError
from unlearnkit.treatments import COMPRESSED, DRAWN_ANEW, TREATMENTS, treated


def net() -> nn.Module:
    return build(Architecture("small-cnn", 3, (1, 8, 8)), seed=1)


def same(one: nn.Module, two: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))


@pytest.mark.parametrize("name", TREATMENTS)
def test_a_treatment_is_what_its_name_says(name: str) -> None:
    model = net()
    found = treated(model, name)
    number, _, what = name.partition(" ")
    if what == "bits":
        assert same(found, quantized(model, bits=int(number)))
    elif what == "% pruned":
        assert same(found, pruned(model, share=int(number) / 100))
    else:
        assert name == DRAWN_ANEW
    assert same(found, treated(model, name))
    assert same(model, net())
    assert not same(found, model)


def test_compressed_copies_are_those_of_the_battery() -> None:
    assert {*COMPRESSED, DRAWN_ANEW} == {*TREATMENTS}


def test_an_untrained_copy_knows_nothing_of_the_weights() -> None:
    other = build(Architecture("small-cnn", 3, (1, 8, 8)), seed=2)
    assert same(treated(net(), DRAWN_ANEW), treated(other, DRAWN_ANEW))


def test_other_names_are_refused() -> None:
    with pytest.raises(
        UsageError, match=r"treatment: must be one of 8 bits, .*, got '4 bit'; did you mean '[48] bits'"
    ):
        treated(net(), "4 bit")
    with pytest.raises(UsageError, match="quantized: Flatten has no convolution or linear layer to change"):
        treated(nn.Flatten(), "4 bits")
