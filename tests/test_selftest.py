"""The self-test passes as it stands, and each of its checks fails when what it watches over is broken."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from unlearnkit.audits import battery, designs, selftest, verdict
from unlearnkit.audits.cli import app
from unlearnkit.audits.evidence import Evidence, Group
from unlearnkit.audits.selftest import Known, Lab
from unlearnkit.audits.statistics.epsilon import Rule, rule_epsilon
from unlearnkit.models import Classifier
from unlearnkit.observing import observe
from unlearnkit.result import State
from unlearnkit.treatments import COMPRESSED, treated

RUNS = 40  # simulated audits per check: the long version is `make selftest`

Break = Callable[[pytest.MonkeyPatch], None]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return selftest.build_lab(tmp_path_factory.mktemp("lab"), seed=0)


@pytest.fixture(scope="module")
def twice(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Evidence]:
    return selftest.duplicates(tmp_path_factory.mktemp("twice"), seed=0)


@pytest.fixture(scope="module")
def hidden(lab: Lab) -> Classifier:
    return selftest.hidden_in_rounding(lab, bits=4, seed=0)


def test_all_sixteen_pass(
    lab: Lab, twice: dict[str, Evidence], hidden: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selftest, "hidden_in_rounding", lambda *_args, **_more: hidden)
    monkeypatch.setattr(selftest, "build_lab", lambda *_args, **_more: lab)
    monkeypatch.setattr(selftest, "duplicates", lambda *_args, **_more: twice)
    found = list(selftest.selftest(runs=RUNS, seed=0))
    assert [known.number for known in found] == list(range(1, 17))
    assert len({known.name for known in found}) == 16
    assert [known for known in found if not known.passed] == []


# -- every check fails when what it watches over is broken ---------------------------------------------------------


def audited_row_stands_out(patch: pytest.MonkeyPatch) -> None:
    """Statistics that do not treat all models alike."""
    right = designs.MarginShift.values

    def values(self: Any, stack: Any, evidence: Evidence) -> Any:
        found = right(self, stack, evidence)
        found[0] += 2.0
        return found

    patch.setattr(designs.MarginShift, "values", values)


def dead_statistic(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(designs.MarginShift, "values", lambda _self, stack, _evidence: np.arange(len(stack), dtype=float) % 7)


def inverted_statistic(patch: pytest.MonkeyPatch) -> None:
    right = designs.MarginShift.values
    patch.setattr(designs.MarginShift, "values", lambda self, stack, evidence: -right(self, stack, evidence))


def blind_to_scale(patch: pytest.MonkeyPatch) -> None:
    """Every model's margins standardized by themselves: what a global change does cannot be seen any more."""
    right = designs.MarginShift.values

    def values(self: Any, stack: Any, evidence: Evidence) -> Any:
        center, sd = stack.mean(axis=1, keepdims=True), stack.std(axis=1, keepdims=True)
        return right(self, (stack - center) / sd, evidence)

    patch.setattr(designs.MarginShift, "values", values)


def own_references(patch: pytest.MonkeyPatch) -> None:
    """References that know what was to be forgotten: copies of the audited model."""
    patch.setattr(Evidence, "stack", lambda self, arrays, target: np.repeat(arrays[target][None], self.oracles + 1, 0))


def absolute_level(patch: pytest.MonkeyPatch) -> None:
    """Memory read off the margins themselves, whatever retrained models know."""

    def values(_self: Any, stack: Any, evidence: Evidence) -> Any:
        found = np.zeros(len(stack))
        found[0] = stack[0, evidence.rows(Group.REQUESTED)].mean() > 0
        return 10 * found + 1e-3 * np.arange(len(stack))

    patch.setattr(designs.MarginShift, "values", values)


def dead_attack(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        designs.CoinDesign, "scores", lambda self, evidence, _target, _plan: np.zeros(self.rows(evidence).size)
    )


def reads_the_coins(patch: pytest.MonkeyPatch) -> None:
    right = designs.CoinDesign.scores
    patch.setattr(
        designs.CoinDesign,
        "scores",
        lambda self, evidence, target, plan: right(self, evidence, target, plan) + 3.0 * self.heads(evidence),
    )


def passes_without_power(patch: pytest.MonkeyPatch) -> None:
    """PASS where nothing was found, as if that were a proof."""

    def state(leak: Any, **more: Any) -> State:
        found = verdict.state_of(leak, **more)
        return found if found == "FAIL" else "PASS"

    patch.setattr(battery, "state_of", state)


def one_sided_rank(patch: pytest.MonkeyPatch) -> None:
    """Only what is remembered counts: nothing below the oracles is ever significant."""
    right = selftest.oracle_rank

    def rank(values: Any, **more: Any) -> Any:
        found = right(values, **more)
        return tuple(r if r.shift.value > 0 else dataclasses.replace(r, p=1.0, p_tolerance=1.0) for r in found)

    patch.setattr(selftest, "oracle_rank", rank)


def hasty_rank(patch: pytest.MonkeyPatch) -> None:
    """A rank that forgets to count the audited model itself."""
    right = selftest.oracle_rank

    def rank(values: Any, **more: Any) -> Any:
        n = len(values)
        return tuple(dataclasses.replace(r, p=(r.p * n - 4) / n) for r in right(values, **more))

    patch.setattr(selftest, "oracle_rank", rank)


def boasting_epsilon(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(selftest, "one_run_epsilon", lambda *_args, **_more: 0.1)


def limits_above_the_truth(patch: pytest.MonkeyPatch) -> None:
    right = selftest.one_run_bounds
    patch.setattr(selftest, "one_run_bounds", lambda mechanism, **more: right(mechanism, **more) + 0.6)


def blind_limits(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(selftest, "two_world_bounds", lambda _mechanism, **more: np.zeros(more["repetitions"]))


def means_only(patch: pytest.MonkeyPatch) -> None:
    """The worst examples are not looked at."""
    patch.setattr(
        designs.WorstTwentieth,
        "values",
        lambda self, stack, evidence: stack[:, evidence.rows(self.members)].mean(axis=1),
    )


def rounds_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(selftest, "quantized", lambda model, **_more: model)


def guard_asleep(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        selftest,
        "rule_epsilon",
        lambda rule, *scores, **more: rule_epsilon(Rule(rule.threshold, rule.above), *scores, **more),
    )


def unseeded(patch: pytest.MonkeyPatch) -> None:
    right, rng = designs.coin_tests, np.random.default_rng()

    def test(*args: Any, **more: Any) -> Any:
        return right(*args, **{**more, "seed": int(rng.integers(1 << 30))})

    patch.setattr(designs, "coin_tests", test)


def order_matters(patch: pytest.MonkeyPatch) -> None:
    """The first oracle counts twice."""
    right = designs.MarginShift.values

    def values(self: Any, stack: Any, evidence: Evidence) -> Any:
        found = right(self, stack, evidence)
        return found + 0.1 * found[1 % len(found)] * (np.arange(len(found)) == 0)

    patch.setattr(designs.MarginShift, "values", values)


def percent_let_through(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(designs.Tolerances, "__post_init__", lambda _self: None)


@pytest.mark.parametrize(
    ("number", "broken"),
    [
        (1, audited_row_stands_out),
        (1, reads_the_coins),
        (2, dead_statistic),
        (2, dead_attack),
        (2, own_references),
        (3, reads_the_coins),
        (4, boasting_epsilon),
        (5, limits_above_the_truth),
        (5, blind_limits),
        (6, absolute_level),
        (6, dead_statistic),
        (7, inverted_statistic),
        (7, hasty_rank),
        (8, one_sided_rank),
        (9, blind_to_scale),
        (9, reads_the_coins),
        (10, means_only),
        (11, dead_attack),
        (12, rounds_nothing),
        (12, dead_attack),
        (13, passes_without_power),
        (14, guard_asleep),
        (15, unseeded),
        (15, order_matters),
        (16, percent_let_through),
    ],
)
def test_a_broken_auditor_is_caught(
    number: int,
    broken: Break,
    lab: Lab,
    twice: dict[str, Evidence],
    hidden: Classifier,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    broken(monkeypatch)
    checks: dict[int, Callable[[], Known]] = {
        1: lambda: selftest.oracle_passes(runs=RUNS // 2, seed=0),
        2: lambda: selftest.untouched_original_fails(lab, runs=RUNS, seed=0),
        3: lambda: selftest.shuffled_coins(lab, runs=RUNS, seed=0),
        4: lambda: selftest.random_scores(runs=RUNS, seed=0),
        5: lambda: selftest.private_anchors(runs=RUNS, seed=0),
        6: lambda: selftest.planted_duplicates(twice),
        7: lambda: selftest.leak_of_known_size(lab, runs=5 * RUNS, seed=0),
        8: lambda: selftest.over_forgetting(runs=RUNS, seed=0),
        9: lambda: selftest.global_artifact(runs=RUNS, seed=0),
        10: lambda: selftest.sparse_leak(runs=RUNS, seed=0),
        11: lambda: selftest.lowered_confidence(lab),
        12: lambda: selftest.quantization(lab, hidden),
        13: lambda: selftest.half_the_battery(runs=RUNS, seed=0),
        14: lambda: selftest.threshold_selection(runs=RUNS, seed=0),
        15: lambda: selftest.same_arrays(lab, seed=0),
        16: selftest.units,
    }
    known = checks[number]()
    assert known.number == number
    assert not known.passed, known


def test_an_audit_flags_what_comes_back_when_the_weights_are_rounded(lab: Lab, hidden: Classifier) -> None:
    """Forgotten in float, and known again in 4 bits: real weights, on the way that an audit takes."""
    made = lab.audited(hidden)
    design = designs.coin_design(made)
    assert design is not None
    rows = design.rows(made)
    seen = {
        f"{name}/{target}": observe(treated(model, name), lab.points).margins[rows, 0]
        for name in COMPRESSED
        for target, model in (("original", lab.original), ("audited", hidden))
    }
    judged = battery.judge(dataclasses.replace(made, treated=seen, treated_points=rows), lab.plan)
    [flag] = [flag for flag in judged.flags if flag.name == "leak comes back"]
    assert "weights rounded to 4 bits: AUC " in flag.sentence
    found = {row.name: row for row in judged.comparisons}["Canary coin test, weights rounded to 4 bits"]
    assert found.original is not None
    assert min(found.value, found.original) > 0.9


def test_an_original_that_was_never_hidden_is_no_quantization_plant(lab: Lab) -> None:
    assert not selftest.quantization(lab, lab.original).passed


# -- what the checks are made of -----------------------------------------------------------------------------------


def test_updates_within_the_cell_are_undone_by_rounding(lab: Lab) -> None:
    model = selftest.quantized(lab.original, bits=4)
    again = selftest.quantized(model, bits=4)
    for before, one, two in zip(
        lab.original.state_dict().values(), model.state_dict().values(), again.state_dict().values(), strict=True
    ):
        assert torch.allclose(one, two, atol=1e-6)
        if before.ndim == 2:
            step = before.abs().amax(dim=1, keepdim=True) / 7
            assert ((one - before).abs() <= step / 2 * 1.0001).all()
            assert (one / step).round().unique().numel() <= 15
            low, high = selftest._cell(before, bits=4)
            for moved in (low, high):
                assert ((moved / step).round() == (before / step).round()).all()
            assert (high - low).max() > 0.5 * step.min()
        else:
            assert torch.equal(one, before)


def test_the_limits_of_chance() -> None:
    assert (selftest.least(1000, 0.05), selftest.most(1000, 0.05)) == (30, 73)
    assert selftest.most(1000, 0.05, checks=20) > 73


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The command line on two checks made up here."""
    asked: list[dict[str, Any]] = []

    def made_up(**settings: Any) -> Iterator[Known]:
        asked.append(settings)
        yield Known(1, "fine", "1", "1", True)
        yield Known(2, "odd", "2 [of 3]", "3", settings["seed"] != 7)

    monkeypatch.setattr(selftest, "selftest", made_up)
    return asked


@pytest.mark.parametrize(
    ("arguments", "runs", "seed", "code"),
    [([], selftest.RUNS, 0, 0), (["--long"], selftest.LONG, 0, 0), (["--seed", "7"], selftest.RUNS, 7, 1)],
)
def test_the_command(told: list[dict[str, Any]], arguments: list[str], runs: int, seed: int, code: int) -> None:
    done = CliRunner().invoke(app, ["selftest", *arguments])
    assert done.exit_code == code
    assert (told[0]["runs"], told[0]["seed"]) == (runs, seed)
    assert "2 [of 3]" in done.stdout
    assert ("NO" in done.stdout) == (code == 1)


def test_a_negative_seed_is_wrong_use() -> None:
    assert CliRunner().invoke(app, ["selftest", "--seed", "-1"]).exit_code == 2
