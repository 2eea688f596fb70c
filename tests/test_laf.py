"""LAF: its losses in closed form, what it moves and what not, and that no label is read."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import test_methods
import torch
from test_methods import CLASSES, Task, blobs, differing, run
from torch import Tensor, nn

from unlearnkit.methods.distill import collect
from unlearnkit.methods.laf import LAF, Autoencoder, alignment_loss, strangeness, turned
from unlearnkit.models import Classifier
from unlearnkit.result import UsageError
from unlearnkit.types import Access, Examples, Need, Splits

task = test_methods.task

QUICK = LAF(epochs=3, lr_unlearn=1e-3, lr_align=1e-3, vae_epochs=5)


def class_0(task: Task) -> Splits:
    train = blobs(200, 0, "train")
    mask = train.labels().numpy() == 0
    return replace(task.splits, forget=train.take(mask), retain=train.take(~mask))


class _Off(Autoencoder):
    """Reconstructs everything wrong by a given squared distance."""

    def __init__(self, squared: float) -> None:
        super().__init__(4, 2, bounded=False)
        self.step = math.sqrt(squared / 4)

    def forward(self, v: Tensor) -> Tensor:
        return v + self.step


@pytest.mark.parametrize(("squared", "each"), [(0.0, 1.0), (1.0, math.exp(0.5)), (1e9, math.e)])
def test_strangeness_grows_from_one_to_e(squared: float, each: float) -> None:
    assert float(strangeness(_Off(squared), torch.rand(5, 4))) == pytest.approx(5 * each, rel=1e-4)


def test_turned_is_the_angle() -> None:
    old = torch.tensor([[1.0, 0.0]]).expand(4, 2)
    new = torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 1.0]])
    torch.testing.assert_close(turned(new, old), torch.tensor([0.0, 1.0, 2.0, 1 - 0.5**0.5]))


@pytest.mark.parametrize("temperature", [0.5, 20.0])
def test_alignment_is_written_out_by_hand(temperature: float) -> None:
    away_r, away_f = torch.tensor([0.1, 0.3, 0.0]), torch.tensor([0.2, 1.5])
    below = sum(math.exp(d / temperature) for d in away_f.tolist())
    expected = sum(math.log(math.exp(d) / below) for d in away_r.tolist())
    assert float(alignment_loss(away_r, away_f, temperature)) == pytest.approx(expected, rel=1e-5)
    assert alignment_loss(away_r / 2, away_f, temperature) < alignment_loss(away_r, away_f, temperature)
    assert alignment_loss(away_r, away_f * 1.3, temperature) < alignment_loss(away_r, away_f, temperature)


def test_the_autoencoder_knows_what_it_learned() -> None:
    rng = torch.Generator().manual_seed(0)
    line = torch.randn(200, 1, generator=rng) * torch.tensor([[1.0, -2.0, 3.0, 0.5]])
    vae = LAF(vae_epochs=40)._autoencoder(line, rng, "line")
    elsewhere = torch.randn(200, 4, generator=rng) * 3
    assert not any(p.requires_grad for p in vae.parameters())
    assert float((vae(line) - line).square().sum(1).mean()) < 0.15 * float(line.square().sum(1).mean())
    assert strangeness(vae, line) < 0.8 * strangeness(vae, elsewhere)


def test_the_published_decoder_is_bounded() -> None:
    z = 50 * torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    bounded, linear = (Autoencoder(4, 3, bounded=bounded) for bounded in (True, False))
    assert 0 <= bounded.decode(z).min() <= bounded.decode(z).max() <= 1
    assert linear.decode(z).min() < 0


def test_no_label_is_read(task: Task) -> None:
    assert LAF().needs == Need.FORGET_INPUTS | Need.RETAIN_INPUTS
    wrong = {
        part: replace(getattr(task.splits, part), y=(getattr(task.splits, part).labels() + 1) % CLASSES)
        for part in ("forget", "retain")
    }
    result = run(task, QUICK)
    assert not differing(run(task, QUICK, splits=replace(task.splits, **wrong)), result)
    bare = Access(QUICK.needs, "LAF", task.splits.forget.without_labels(), task.splits.retain.without_labels())
    again = QUICK.run(copy.deepcopy(task.model), bare, torch.Generator().manual_seed(0))
    assert not differing(again, result)


def test_the_features_of_the_forget_class_turn_and_the_others_stay(task: Task) -> None:
    splits = class_0(task)
    result = run(task, replace(QUICK, epochs=10), splits=splits)

    def moved(examples: Examples) -> float:
        before = collect(task.model.features, task.model, examples, 64)
        return float(turned(collect(result.features, result, examples, 64), before).mean())

    assert moved(splits.forget) > 2 * moved(splits.retain)
    assert not [name for name in differing(result, task.model) if name.startswith(("head.", "normalize."))]
    assert not [name for name in differing(result, task.model) if "running" in name or "num_batches" in name]


def test_the_forget_features_leave_their_distribution(task: Task) -> None:
    """L_UE alone, against an autoencoder that the method did not use."""
    splits = class_0(task)
    before = collect(task.model.features, task.model, splits.forget, 64)
    vae = LAF(vae_epochs=40)._autoencoder(before, torch.Generator().manual_seed(7), "forget set")
    result = run(task, replace(QUICK, epochs=10, lr_align=1e-12), splits=splits)
    after = collect(result.features, result, splits.forget, 64)

    def missed(v: Tensor) -> float:
        return float((vae(v) - v).square().sum(1).mean())

    assert missed(after) > 1.1 * missed(before)


def test_the_repair_trains_the_head_alone(task: Task) -> None:
    repaired = replace(QUICK, repair_epochs=3)
    assert repaired.needs == Need.FORGET_INPUTS | Need.RETAIN
    plain, result = run(task, QUICK), run(task, repaired)
    assert {name.partition(".")[0] for name in differing(result, plain)} == {"head"}
    assert test_methods.loss_on(result, task.splits.retain) < test_methods.loss_on(plain, task.splits.retain)


def test_one_example_is_a_batch(task: Task) -> None:
    result = run(task, replace(QUICK, batch_size=1, epochs=1, vae_epochs=1, lr_unlearn=1e-4, lr_align=1e-4))
    assert differing(result, task.model)


@pytest.mark.parametrize("legacy", [False, True])
def test_legacy_learns_both_sets_with_bounded_reconstructions(
    task: Task, legacy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    learned = []
    learn = LAF._autoencoder

    def watched(method: LAF, features: Tensor, rng: torch.Generator, which: str) -> Autoencoder:
        vae = learn(method, features, rng, which)
        learned.append((len(features), isinstance(vae.end, nn.Sigmoid)))
        return vae

    monkeypatch.setattr(LAF, "_autoencoder", watched)
    run(task, replace(QUICK, legacy=legacy))
    assert learned == [(200 if legacy else 176, legacy), (24, legacy)]


def test_a_model_without_features_is_refused(task: Task) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, CLASSES))
    with pytest.raises(UsageError, match=r"^LAF: the model must be split into body and head, got Sequential; wrap it"):
        run(replace(task, model=model), LAF())
    headless = Classifier(task.model.normalize, nn.Sequential(task.model.body, task.model.head), nn.Identity())
    with pytest.raises(UsageError, match=r"^LAF\.repair_epochs: the head has no weights to train, got Identity; "):
        run(replace(task, model=headless), replace(QUICK, repair_epochs=1))


@pytest.mark.parametrize(
    ("method", "sentence"),
    [
        (replace(QUICK, vae_lr=1e30), r"^LAF, autoencoder of the retain set, epoch \d: the loss became "),
        (
            replace(QUICK, lr_unlearn=1e30),
            r"^LAF, epoch \d, batch \d, L_(UE|RA): the loss became nan at step 1 with learning rate ",
        ),
        (replace(QUICK, repair_epochs=3, repair_lr=3e37), r"^LAF, repair, epoch \d: the loss became "),
    ],
)
def test_a_loss_that_explodes_is_said(task: Task, method: LAF, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        run(task, method)


def test_hyperparameters_are_checked() -> None:
    with pytest.raises(UsageError, match=r"^LAF\.repair_epochs: must be greater than or equal to 0, got -1$"):
        LAF(repair_epochs=-1)
    with pytest.raises(UsageError, match=r"^LAF\.latent: must be greater than or equal to 1, got 0$"):
        LAF(latent=0)
