"""verify: a fresh report is accepted; whatever is changed in it is refused, and the place is named."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_samples import class_evidence, evidence, plan, registered, result_of
from safetensors.numpy import load, save
from sample_result import sample
from stress_samples import stress_evidence

from unlearnkit.audits import controls, designs
from unlearnkit.audits.audit import save_audit
from unlearnkit.audits.battery import BATTERY
from unlearnkit.audits.designs import Plan, Tolerances
from unlearnkit.audits.evidence import Evidence
from unlearnkit.audits.registration import late, register
from unlearnkit.audits.statistics.coin import coin_tests
from unlearnkit.audits.verify import Verified, verify_file
from unlearnkit.audits.worst_case.gaps import Answers, Looked
from unlearnkit.reports.pdf import render
from unlearnkit.result import AuditResult, Flag, Registration, UsageError
from unlearnkit.store import Store

Body = dict[str, Any]
CLASSES = sample("fail").result.data.classes


@pytest.fixture(autouse=True, scope="module")
def _few_shuffles() -> Iterator[None]:
    """What the shuffles are for is tested with the controls, and what the permutations are for with the coin test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(controls, "SHUFFLES", 40)
        patch.setattr(designs, "coin_tests", lambda *args, **more: coin_tests(*args, **{**more, "permutations": 499}))
        yield


@functools.cache
def written(kind: str = "examples") -> tuple[AuditResult, bytes]:
    if kind == "class":
        return result_of(class_evidence(1, oracles=19, outputs=True), plan(kind="class"))
    if kind == "hours":
        made = evidence(1, oracles=6, requested=12, twins=12, canaries=0, unlearned=6, outputs=True)
        other = stress_evidence(1, found=("memorized", "class"), leak={"memorized": 4.0})
        fixed = plan(tier="hours", classes=sample("fail").result.data.classes)
        return result_of(dataclasses.replace(made, stress=other), fixed)
    if kind == "seconds":
        return result_of(evidence(1, oracles=0, outputs=True), plan(tier="seconds"))
    if kind == "groups":
        made = evidence(1, oracles=5, requested=20, twins=20, canaries=0, outputs=True)
        made = dataclasses.replace(made, answer_group=np.arange(300) % 2, group_names=("north", "south"))
        return result_of(made, plan(classes=sample("fail").result.data.classes, groups=("north", "south")))
    return result_of(
        evidence(1, oracles=19, requested=40, twins=40, canaries=40, leak_canaries=2.0, outputs=True),
        plan(tolerances=Tolerances(auc=0.15)),
    )


@functools.cache
def complete() -> Evidence:
    """Everything that an audit asks of its models."""
    return evidence(1, oracles=6, requested=20, twins=20, canaries=20, outputs=True)


@functools.cache
def pdf() -> bytes:
    return render(*written())


def saved(folder: Path, kind: str = "examples") -> Path:
    return save_audit(folder, *written(kind))


def reseal(body: Body) -> str:
    """A digest that fits again, as a careful forger would write it."""
    content = {name: value for name, value in body.items() if name != "digest"}
    return json.dumps({**content, "digest": hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()})


def forge(path: Path, change: Callable[[Body], None], *, fix_digest: bool = True) -> None:
    body = json.loads(path.read_text())
    change(body)
    path.write_text(reseal(body) if fix_digest else json.dumps(body))


def step(value: Any) -> Any:
    """The same number with one digit changed."""
    text = json.dumps(value)
    spot = max(i for i, letter in enumerate(text.split("e")[0]) if letter in "0123456789")
    spot = min(spot, text.find(".") + 3 if "." in text else spot)
    return json.loads(text[:spot] + str((int(text[spot]) + 1) % 10) + text[spot + 1 :])


@functools.cache
def judged() -> tuple[AuditResult, bytes]:
    """The result of `complete`."""
    return result_of(complete(), plan(oracles=6, classes=CLASSES))


def verified(folder: Path, result: AuditResult, sidecar: bytes, fixed: Plan, **registered: Any) -> Verified:
    """The result saved with a registration of its own, and verified."""
    parts: dict[str, Any] = {"request": result.request, "data": result.data, "canaries": None} | registered
    registration = register(Store(folder / "store"), fixed, **parts)
    return verify_file(save_audit(folder, dataclasses.replace(result, registration=registration), sidecar))


def test_an_earlier_registration_cannot_be_left_out(tmp_path: Path) -> None:
    made, fixed = complete(), plan(oracles=6, classes=CLASSES)
    result, sidecar = judged()
    parts: dict[str, Any] = {"request": result.request, "data": result.data, "canaries": result.canaries}
    parts["models"] = registered(made)
    store = Store(tmp_path / "store")
    register(store, dataclasses.replace(fixed, tolerances=Tolerances(auc=0.45)), **parts)
    store.write("a" * 64, b"answers", {})
    registration = register(store, fixed, **parts)

    def checked(registration: Registration, flags: tuple[Flag, ...]) -> Verified:
        told = dataclasses.replace(result, registration=registration, flags=flags)
        return verify_file(save_audit(tmp_path, told, sidecar))

    flagged = (*late(registration), *result.flags)
    assert checked(registration, flagged).passed
    without = {name: value for name, value in registration.document.items() if name != "earlier"}
    assert checked(registration, result.flags).checks[-1].sentence.startswith("flags is ")
    gone = dataclasses.replace(registration, document=without)
    assert checked(gone, flagged).checks[-1].sentence.startswith("flags is ")
    assert checked(gone, result.flags).checks[-1].sentence.startswith("registration.sha256 is ")


@pytest.mark.parametrize("kind", ["examples", "class", "seconds", "groups", "hours"])
def test_fresh_results_verify(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, kind)
    checked = verify_file(path)
    assert checked.passed
    assert checked.result == written(kind)[0]
    assert [check.name for check in checked.checks] == ["evidence", "verdict"]


@pytest.mark.parametrize("value", [3, None, [4], "a/b"])
def test_a_registration_of_another_form_is_refused_in_words(tmp_path: Path, value: Any) -> None:
    path = saved(tmp_path, "examples")

    def change(body: Body) -> None:
        body["registration"] = {"sha256": "a" * 64, "document": {"models": value, "plan": value}}

    forge(path, change)
    assert not verify_file(path).passed


@pytest.mark.parametrize("value", [3, None, [], {"oracles": "many"}, {"tolerances": "none"}])
def test_a_spec_of_another_form_is_refused_in_words(tmp_path: Path, value: Any) -> None:
    path = saved(tmp_path, "examples")

    def change(body: Body) -> None:
        body["spec"]["audit"] = value

    forge(path, change)
    assert all(check.sentence for check in verify_file(path).checks)


def test_a_fresh_report_verifies(tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(pdf())
    checked = verify_file(path)
    assert checked.passed
    assert [check.name for check in checked.checks] == ["evidence", "verdict", "pages"]
    assert all(check.sentence for check in checked.checks)


PLACES: list[tuple[str | int, ...]] = [
    ("tests", 0, "p"),
    ("tests", 2, "p_tolerance_adjusted"),
    ("tests", 1, "leak", "high"),
    ("tests", 2, "mde"),
    ("tests", 0, "original", "low"),
    ("tests", 0, "quantities", 0, "value"),
    ("accuracy", 3, "rate", "low"),
    ("seed",),
    ("significance",),
    ("tolerances", "auc"),
    ("request", "forget"),
    ("canaries", "heads"),
    ("oracles", "count"),
]


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_one_changed_digit_is_refused_with_and_without_a_fitting_digest(
    tmp_path: Path, place: tuple[str | int, ...]
) -> None:
    path = saved(tmp_path)

    def change(body: Body) -> None:
        part: Any = body
        for name in place[:-1]:
            part = part[name]
        old = part[place[-1]]
        part[place[-1]] = step(old)
        assert part[place[-1]] != old

    forge(path, change, fix_digest=False)
    with pytest.raises(UsageError, match="does not match its own digest; the file was changed afterwards"):
        verify_file(path)
    path = saved(tmp_path)
    forge(path, change)
    checked = verify_file(path)
    assert not checked.passed
    [bad] = [check for check in checked.checks if not check.passed]
    assert re.search(r"^[a-z_.\[\]0-9]+ is .* in the file, the evidence gives ", bad.sentence)
    if place[0] in ("tests", "request", "canaries", "oracles") and place[-1] != "tolerance":
        assert bad.sentence.startswith(str(place[0]))
        assert str(place[-1]) in bad.sentence.split(" is ")[0]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda body: body["verdict"].update(word="PASS"),
            "verdict.word is 'PASS' in the file, the evidence gives 'FAIL'",
        ),
        (lambda body: body["verdict"].update(headline="All is well."), "verdict.headline is 'All is well.'"),
        (lambda body: body["verdict"]["why"].pop(), "verdict.why is "),
        (lambda body: body["captions"].update(roc="Somebody else's."), 'captions.roc is "Somebody else\'s." in the fi'),
        (lambda body: body["captions"].pop("margins"), "captions is {'roc': "),
        (lambda body: body["tests"][0].update(state="PASS"), "tests[0].state is 'PASS'"),
        (lambda body: body["tests"][0].update(sentence="Fine."), "tests[0].sentence is 'Fine.'"),
        (lambda body: body["tests"].pop(), "tests is "),
        (lambda body: body["tests"].reverse(), "tests[0]."),
        (lambda body: body["controls"][0].update(passed=False), "controls[0].passed is False"),
        (lambda body: body["controls"].pop(), "controls is "),
        (lambda body: body["flags"].clear(), "flags is []"),
        (lambda body: body.update(tier="seconds"), "tier is 'seconds' in the file, the evidence gives 'minutes'"),
        (lambda body: body.update(oracles=None), "oracles.count is 0 in the file, the evidence gives 19"),
        (lambda body: body.update(canaries=None), "canaries.heads is 0 in the file, the evidence gives 40"),
        (lambda body: body["oracles"]["seeds"].pop(), "oracles.seeds is 18 in the file, the evidence gives 19"),
        (
            lambda body: body["oracles"]["seeds"].__setitem__(3, body["oracles"]["seeds"][4]),
            "oracles.seeds, each once is 18 in the file, the evidence gives 19",
        ),
        (
            lambda body: body["oracles"].update(held_out_seed=body["oracles"]["seeds"][4]),
            "oracles.seeds, each once is 18 in the file, the evidence gives 19",
        ),
        (
            lambda body: body["spec"]["audit"].update(significance=0.01),
            "significance is 0.05 in the file, the evidence gives 0.01",
        ),
        (lambda body: body["spec"]["audit"].update(seed=9), "seed is 0 in the file, the evidence gives 9"),
        (
            lambda body: body["oracles"].update(missing=["oracle 20: no luck"]),
            "oracles.missing is 1 in the file, the evidence gives 0",
        ),
    ],
)
def test_every_judged_word_is_computed_again(tmp_path: Path, change: Callable[[Body], Any], named: str) -> None:
    path = saved(tmp_path)
    forge(path, lambda body: (change(body), None)[1])
    checked = verify_file(path)
    assert not checked.passed
    assert checked.checks[-1].sentence.startswith(named)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda body: body.update(by_group=None), "by_group is None in the file, the evidence gives {'groups': "),
        (lambda body: body["by_group"]["groups"].pop(), "by_group.groups is "),
        (lambda body: body["by_group"]["groups"][0].update(name="south"), "by_group.groups[0].name is 'south' in the"),
        (lambda body: body["by_group"]["groups"][1].update(audited=0.99), "by_group.groups[1].audited is 0.99 in the"),
        (lambda body: body["by_group"].update(sentence="No group lost."), "by_group.sentence is 'No group lost.' in"),
    ],
)
def test_the_table_by_group_follows_from_the_evidence(
    tmp_path: Path, change: Callable[[Body], Any], named: str
) -> None:
    path = saved(tmp_path, "groups")
    assert written("groups")[0].by_group is not None
    forge(path, lambda body: (change(body), None)[1])
    assert verify_file(path).checks[-1].sentence.startswith(named)


def test_groups_that_were_not_registered_are_told(tmp_path: Path) -> None:
    result, sidecar = written("groups")
    fixed = plan(oracles=5, classes=result.data.classes, groups=("east", "west"))
    checked = verified(tmp_path, result, sidecar, fixed, models={})
    assert checked.checks[-1].sentence == (
        "registration.plan.groups[0] is 'east' in the file, the evidence gives 'north'"
    )


def test_examples_that_changed_their_group_are_told(tmp_path: Path) -> None:
    """Whoever deals the groups after the look could hide whom it hurt."""
    result, sidecar = written("groups")
    fixed = plan(oracles=5, classes=result.data.classes, groups=("north", "south"))
    models = registered(Evidence.from_bytes(sidecar))
    for number, passed in ((np.arange(300) % 2, True), (np.arange(300) // 150, False)):
        checked = verified(tmp_path, result, sidecar, fixed, models=models, groups=number)
        assert checked.passed is passed
    assert checked.checks[-1].sentence.startswith("registration.groups is ")


def test_oracles_that_failed_are_counted(tmp_path: Path) -> None:
    """Three of 22 are missing: the verdict says so, and nobody can leave them out of the file."""
    result, sidecar = result_of(
        evidence(1, oracles=19, outputs=True), plan(), missing=("oracle 3: x", "oracle 7: y", "oracle 9: z")
    )
    control = next(control for control in result.controls if control.name == "all oracles retrained")
    assert not control.passed
    assert control.sentence.startswith("3 of 22 retrained references are missing;")
    assert result.verdict.word == "INVALID"
    path = save_audit(tmp_path, result, sidecar)
    assert verify_file(path).passed
    forge(path, lambda body: body["oracles"].update(missing=[]))
    assert verify_file(path).checks[-1].sentence == "oracles.missing is 0 in the file, the evidence gives 3"
    forge(path, lambda body: body["spec"]["audit"].update(oracles=19))  # and that no more were asked for
    assert verify_file(path).checks[-1].sentence.startswith(("controls", "nonstandard"))
    assert not verify_file(path).passed


def test_another_kind_of_request_is_another_verdict(tmp_path: Path) -> None:
    path = saved(tmp_path)
    forge(path, lambda body: body["request"].update(kind="class"))
    assert not verify_file(path).passed


@pytest.mark.parametrize("tolerances", [{}, {"auc": 0.15}, {"auc": 0.15, "margin": 1.0, "class_margin": 3.0, "x": 1.0}])
def test_tolerances_that_are_not_those_of_the_battery(tmp_path: Path, tolerances: dict[str, float]) -> None:
    path = saved(tmp_path)
    forge(path, lambda body: body.update(tolerances=tolerances))
    with pytest.raises(UsageError, match="tolerances must name auc, margin, class_margin, recognition, worst, got "):
        verify_file(path)


def test_a_flipped_byte_in_the_sidecar(tmp_path: Path) -> None:
    path = saved(tmp_path)
    sidecar = tmp_path / "evidence.safetensors"
    data = bytearray(sidecar.read_bytes())
    data[len(data) // 2] ^= 1
    sidecar.write_bytes(bytes(data))
    checked = verify_file(path)
    assert not checked.passed
    [bad] = checked.checks
    assert bad.name == "evidence"
    assert re.fullmatch(r"sha256 is [0-9a-f]{12}…, the result names [0-9a-f]{12}…", bad.sentence)


def test_forged_evidence_under_its_own_hash(tmp_path: Path) -> None:
    """Evidence and hash and digest changed together: then the statements no longer follow."""
    path = saved(tmp_path)
    arrays = load((tmp_path / "evidence.safetensors").read_bytes())
    arrays["margins/audited"] = arrays["margins/held_out"]
    data = save(arrays)
    (tmp_path / "evidence.safetensors").write_bytes(data)
    forge(path, lambda body: body["evidence"].update(sha256=hashlib.sha256(data).hexdigest()))
    checked = verify_file(path)
    assert [check.passed for check in checked.checks] == [True, False]


@pytest.mark.parametrize(
    "damage",
    [
        lambda arrays: arrays.pop("points/group"),
        lambda arrays: arrays.update({"margins/audited": np.full_like(arrays["margins/audited"], np.nan)}),
    ],
)
def test_evidence_that_is_none(tmp_path: Path, damage: Callable[[Any], Any]) -> None:
    path = saved(tmp_path)
    arrays = load((tmp_path / "evidence.safetensors").read_bytes())
    damage(arrays)
    data = save(arrays)
    (tmp_path / "evidence.safetensors").write_bytes(data)
    forge(path, lambda body: body["evidence"].update(sha256=hashlib.sha256(data).hexdigest()))
    with pytest.raises(UsageError):
        verify_file(path)


@pytest.mark.parametrize(
    ("asked", "silent", "noted", "passed"),
    [
        ("Quantization", "", "", True),
        ("Pruning", "", "", False),
        ("Pruning", "", "Pruning", True),
        ("Quantization", "SWAP test", "", False),
    ],
)
def test_no_registered_probe_is_left_out_in_silence_and_none_comes_in(
    tmp_path: Path, asked: str, silent: str, noted: str, passed: bool
) -> None:
    """silent: what was looked at without having been registered."""
    made = evidence(1, oracles=5, requested=20, twins=20, canaries=0, outputs=True)
    if noted:
        made = dataclasses.replace(made, notes=(Flag("probe left out", f"{noted}: failed"),))
    fixed = plan(oracles=5, classes=CLASSES)
    result, sidecar = result_of(made, fixed)
    models = {f"{asked}/audited": ["a" * 64]} | registered(made)
    models = {name: keys for name, keys in models.items() if not silent or not name.startswith(silent)}
    checked = verified(tmp_path, result, sidecar, fixed, models=models)
    assert checked.passed is passed
    if not passed:
        assert checked.checks[1].sentence.startswith("registration.models is [")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, None),
        ({"oracles": ["c" * 64] * 12}, "oracles is 12 in the file, the evidence gives 7"),
        ({"oracles": []}, "oracles is 0 in the file, the evidence gives 7"),
        ({"original": []}, "original is 0 in the file, the evidence gives 1"),
        ({"original": "o" * 64}, "original is 0 in the file, the evidence gives 1"),
        ({"audited": ["a" * 64, "b" * 64]}, "audited is 2 in the file, the evidence gives 1"),
        ({"ensemble": ["e" * 64] * 64}, "ensemble is 64 in the file, the evidence gives 0"),
        ({"SWAP test/pairs": ["s" * 64] * 8}, "SWAP test/pairs is 8 in the file, the evidence gives 6"),
        ({"Quantization/oracles": ["q" * 64] * 7}, "Quantization/oracles is 7 in the file, the evidence gives 6"),
        ({"Quantization/audited": []}, "Quantization/audited is 0 in the file, the evidence gives 1"),
    ],
)
def test_as_many_models_were_looked_at_as_were_registered(
    tmp_path: Path, changes: dict[str, Any], named: str | None
) -> None:
    made, fixed = complete(), plan(oracles=6, classes=CLASSES)
    result, sidecar = judged()
    checked = verified(tmp_path, result, sidecar, fixed, models=registered(made) | changes, canaries=result.canaries)
    assert checked.passed is (named is None)
    assert named is None or checked.checks[1].sentence == f"registration.models.{named}"


def without(part: str, *names: str) -> Callable[[Evidence], Evidence]:
    """Evidence from which these arrays of a part were taken."""
    return lambda made: dataclasses.replace(
        made, **{part: {n: a for n, a in getattr(made, part).items() if n not in names}}
    )


def nobody_unseen(made: Evidence) -> Evidence:
    kept = made.beside_retained == 1
    return dataclasses.replace(
        made,
        beside={name: part[..., kept] for name, part in made.beside.items()},
        beside_retained=made.beside_retained[kept],
    )


@pytest.mark.parametrize(
    ("take", "named"),
    [
        (
            lambda made: dataclasses.replace(made, swapped=made.swapped[:1], swapped_forget=made.swapped_forget[:1]),
            "registration.models.SWAP test/pairs is 6 in the file, the evidence gives 2",
        ),
        (
            lambda made: dataclasses.replace(made, swapped=None, swapped_forget=None),
            "registration.models is ['Quantization', 'RetainRelearning(steps=40)', 'SWAP test', 'treated weights',",
        ),
        (
            lambda made: dataclasses.replace(made, treated={}, treated_points=np.empty(0, dtype=np.int64)),
            "registration.models is ['Quantization', 'RetainRelearning(steps=40)', 'SWAP test', 'treated weights',",
        ),
        (lambda made: dataclasses.replace(made, legacy={}), "evidence.legacy is {'MIA efficacy (SVC)/original': 1,"),
        (
            lambda made: dataclasses.replace(made, legacy={}, beside={}, beside_retained=made.beside_retained[:0]),
            "evidence.beside is ['audited', 'held_out', 'oracles', 'original'] in the file, the evidence gives []",
        ),
        (without("beside", "held_out"), "evidence.beside is ['audited', 'held_out', 'oracles', 'original'] in the fi"),
        (nobody_unseen, "evidence.beside_retained is [0, 1] in the file, the evidence gives [1]"),
        (
            lambda made: dataclasses.replace(
                made,
                logits={},
                logit_points=made.logit_points[:0],
                notes=(Flag("probe left out", "untrained copy: no memory"),),
            ),
            "evidence.logits is ['audited', 'held_out', 'oracles', 'original'] in the file, the evidence gives []",
        ),
        (
            lambda made: dataclasses.replace(made, answers={}, answer_label=made.answer_label[:0]),
            "evidence.answers is ['audited', 'held_out', 'oracles', 'original'] in the file, the evidence gives []",
        ),
        (
            lambda made: dataclasses.replace(made, readings={name: part[:5] for name, part in made.readings.items()}),
            "registration.models.Quantization/oracles is 6 in the file, the evidence gives 5",
        ),
    ],
)
def test_nothing_that_a_row_is_read_off_can_be_taken_out(
    tmp_path: Path, take: Callable[[Evidence], Evidence], named: str
) -> None:
    """Judged anew without it, everything follows from the evidence that is left; only the registration tells."""
    whole, fixed = complete(), plan(oracles=6, classes=CLASSES)
    result, sidecar = result_of(take(whole), fixed)
    told = dict(canaries=result.canaries, models=registered(whole))
    checked = verified(tmp_path, result, sidecar, fixed, **told)
    assert checked.checks[-1].sentence.startswith(named)
    unregistered = verify_file(save_audit(tmp_path, dataclasses.replace(result, registration=None), sidecar))
    assert [(check.name, check.passed) for check in unregistered.checks] == [
        ("evidence", True),
        ("verdict", True),
        ("registration", False),
    ]
    assert unregistered.checks[-1].sentence == (
        "there is none; an audit writes down what it will look at, and how it judges, before any score"
    )


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda body: body["method"].update(name="Retrain"),
            "method.name is 'Retrain' in the file, its spec gives 'Sal",
        ),
        (
            lambda body: body["method"]["params"].update(epochs=9),
            "method.params.epochs is 9 in the file, its spec give",
        ),
        (
            lambda body: body["method"]["params"].update(lr=0.5),  # not in the spec
            "method.params.lr is 0.5 in the file, its spec gives 0.0",
        ),
        (lambda body: body["method"].update(saw=[]), "method.saw is [] in the file, its spec gives ['forget_inputs', "),
        (lambda body: body["method"].update(saw=None), "method.saw is None in the file, its spec gives ['forget_inp"),
        (lambda body: body["method"].update(sentence="Exact."), "method.sentence is 'Exact.' in the file, its spec "),
        (lambda body: body["method"].update(seed=7), "method.seed is 7 in the file, its spec gives "),
        (lambda body: body["model"]["recipe"].update(epochs=99), "model.recipe.epochs is 99 in the file, its spec giv"),
        (lambda body: body["model"]["recipe"].update(privacy={"clip": 1}), "model.recipe.privacy is {'clip': 1} in t"),
        (lambda body: body["model"].update(architecture="vit"), "model.architecture is 'vit' in the file, its spec gi"),
        (lambda body: body["data"].update(source="npz:x"), "data.source is 'npz:x' in the file, its spec gives 'digit"),
        (lambda body: body["canaries"].update(opened=False), "canaries.opened is False in the file, its spec gives T"),
        (lambda body: body["oracles"]["seeds"].__setitem__(4, 5), "oracles.seeds[4] is 5 in the file, its spec gives "),
        (lambda body: body["oracles"].update(held_out_seed=5), "oracles.held_out_seed is 5 in the file, its spec giv"),
        (lambda body: body["spec"].update(method={"name": "none"}), "method.name is 'SalUn' in the file, its spec giv"),
        (lambda body: body["spec"]["audit"].update(unlearned="x"), "method.name is 'SalUn' in the file, its spec giv"),
        (
            lambda body: body["spec"].update(canaries={"count": 80, "kind": "patch"}),
            "canaries.opened is True in the file, its spec gives False",
        ),
        (
            lambda body: (
                body["spec"].update(canaries={"count": 80, "kind": "patch"}),
                body["canaries"].update(opened=False),
            ),
            "canaries.kind is 'shuffled label' in the file, its spec gives 'patch'",
        ),
        (
            lambda body: body["spec"].pop("method"),
            "the spec in the file is none (spec: a [method] section is needed, or audit.unlearned with the weights ",
        ),
        (
            lambda body: body["spec"].update(recipe={"epoch": 3}),
            "the spec in the file is none (spec: recipe.epoch: unk",
        ),
    ],
)
def test_what_the_spec_says_is_not_taken_as_stated(
    tmp_path: Path, change: Callable[[Body], Any], sentence: str
) -> None:
    path = saved(tmp_path)
    forge(path, lambda body: (change(body), None)[1])
    checked = verify_file(path)
    assert [(check.name, check.passed) for check in checked.checks] == [
        ("evidence", True),
        ("verdict", True),
        ("spec", False),
    ]
    assert checked.checks[-1].sentence.startswith(sentence)


def test_a_request_that_its_spec_does_not_name(tmp_path: Path) -> None:
    path = saved(tmp_path)
    forge(path, lambda body: body["spec"].update(deletion={"id": "DR-other"}))
    assert verify_file(path).checks[-1].sentence == (
        "request.id is 'DR-2026-017' in the file, its spec gives 'DR-other'"
    )


def test_readings_of_an_oracle_that_failed_are_not_missed(tmp_path: Path) -> None:
    made, fixed = complete(), plan(oracles=7, classes=CLASSES)
    result, sidecar = result_of(made, fixed, missing=("oracle 3: no luck",))
    asked = {name: ["a" * 64] * 7 for name in made.readings if name.endswith("/oracles")}
    models = registered(made) | asked | {"oracles": ["a" * 64] * 8}
    told = dict(canaries=result.canaries, models=models)
    assert verified(tmp_path, result, sidecar, fixed, **told).passed


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda stress: stress["cells"][0]["measures"][0]["gap"].update(value=0.0), "stress.cells[0].measures[0].gap"),
        (
            lambda stress: stress["cells"][3]["average_gap"].update(value=9.0),
            "stress.cells[3].average_gap.value is 9.0",
        ),
        (lambda stress: stress["sets"][0].update(fingerprint="0" * 64), "stress.sets[0].fingerprint is "),
        (lambda stress: stress["hardest"][0].update(id="nobody"), "stress.hardest[0].id is 'nobody'"),
        (lambda stress: stress.update(sentences=["Fine."]), "stress.sentences is ['Fine.']"),
        (lambda stress: stress.update(left_out=["class: no time."]), "stress.left_out is "),
        (lambda stress: stress["hardness"].clear(), "stress.hardness is []"),
    ],
)
def test_the_page_on_other_sets_is_judged_again(tmp_path: Path, change: Callable[[Body], Any], named: str) -> None:
    path = saved(tmp_path, "hours")
    forge(path, lambda body: (change(body["stress"]), None)[1])
    assert verify_file(path).checks[-1].sentence.startswith(named)


def test_other_sets_are_registered_and_cannot_go_missing(tmp_path: Path) -> None:
    result, sidecar = written("hours")
    assert [flag.name for flag in result.flags if flag.name == "harder sets"]
    path = tmp_path / "report.pdf"
    path.write_bytes(render(result, sidecar))
    assert verify_file(path).passed  # images in it are the same bytes again
    made = Evidence.from_bytes(sidecar)
    assert made.stress is not None
    fixed = plan(tier="hours", oracles=6, classes=result.data.classes)
    rules = made.stress.document
    for document, named in ((rules, ""), ({**rules, "size": 7}, "registration.stress.size is 7")):
        registration = register(
            Store(tmp_path / "store"),
            fixed,
            request=result.request,
            data=result.data,
            canaries=None,
            models=registered(made),
            stress=document,
        )
        told = dataclasses.replace(result, registration=registration)
        checked = verify_file(save_audit(tmp_path, told, sidecar))
        assert checked.passed is (not named)
        assert checked.checks[-1].sentence.startswith(named)
    for dropped, named in ((True, "flags is "), (False, "stress is ")):
        without = dataclasses.replace(made, stress=None).to_bytes()
        changed = dataclasses.replace(
            result,
            evidence=dataclasses.replace(result.evidence, sha256=hashlib.sha256(without).hexdigest()),
            flags=result.flags if dropped else tuple(f for f in result.flags if f.name != "harder sets"),
        )
        assert verify_file(save_audit(tmp_path, changed, without)).checks[-1].sentence.startswith(named)
    gone = dataclasses.replace(
        result,
        stress=None,
        flags=tuple(f for f in result.flags if f.name != "harder sets"),
        evidence=dataclasses.replace(result.evidence, sha256=hashlib.sha256(without).hexdigest()),
        registration=registration,
    )
    assert verify_file(save_audit(tmp_path, gone, without)).checks[-1].sentence.startswith("registration.stress is ")


@pytest.mark.parametrize(
    ("drop", "named"),
    [
        (lambda stress: dataclasses.replace(stress, sets=stress.sets[1:], hardest={}), "stress.sets.found is ["),
        (lambda stress: dataclasses.replace(stress, sets=stress.sets[:-1]), "stress.sets.random is 5 in the file"),
        (
            lambda stress: dataclasses.replace(stress, sets=(fewer(stress.sets[0]), *stress.sets[1:])),
            "stress.sets.unlearnings is 3 in the file, the evidence gives [2, 3]",
        ),
        (
            lambda stress: dataclasses.replace(stress, sets=(stress.sets[0], cut(stress.sets[1], 1), *stress.sets[2:])),
            "stress.sets.points.class[0] is 20 in the file, the evidence gives 19",
        ),
        (
            lambda stress: dataclasses.replace(stress, sets=(*stress.sets[:-1], cut(stress.sets[-1], 0))),
            "stress.sets.points.random 5[2] is 30 in the file, the evidence gives 29",
        ),
        (
            lambda stress: dataclasses.replace(stress, sets=stress.sets[:-1], faults=("random 5: no memory.",)),
            "",
        ),
    ],
)
def test_no_set_is_left_out_in_silence(tmp_path: Path, drop: Callable[[Any], Any], named: str) -> None:
    """Judged anew without it: everything follows from the evidence, but the plan does not."""
    result, sidecar = written("hours")
    made = Evidence.from_bytes(sidecar)
    changed = dataclasses.replace(made, stress=drop(made.stress))
    told, data = result_of(changed, plan(tier="hours", classes=result.data.classes))
    checked = verify_file(save_audit(tmp_path, told, data))
    assert checked.passed is (not named)
    assert checked.checks[-1].sentence.startswith(named)


def fewer(one: Looked) -> Looked:
    """The same set, one unlearning of it gone."""
    answers = one.unlearned["SalUn"]
    return dataclasses.replace(one, unlearned={"SalUn": Answers(answers.margins[1:], answers.right[1:])})


def cut(one: Looked, ids: int) -> Looked:
    """The same set without one of its points: an example of the set, or a held-out one."""
    gone = 0 if ids else one.y.size - 1

    def rest(answers: Answers) -> Answers:
        return Answers(np.delete(answers.margins, gone, axis=1), np.delete(answers.right, gone, axis=1))

    return dataclasses.replace(
        one,
        ids=one.ids[ids:],
        y=np.delete(one.y, gone),
        oracles=rest(one.oracles),
        unlearned={name: rest(answers) for name, answers in one.unlearned.items()},
    )


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such file"):
        verify_file(tmp_path / "audit.json")
    with pytest.raises(
        UsageError, match=r"is a folder; name a file, a report\.pdf, or an audit.json with its evidence"
    ):
        verify_file(tmp_path)
    path = saved(tmp_path)
    with pytest.raises(UsageError, match=re.escape(f"{tmp_path}: is a folder; name a file, {path}")):
        verify_file(tmp_path)
    with pytest.raises(UsageError, match="is a folder; name a file"):
        verify_file(path, trust=tmp_path)
    (tmp_path / "evidence.safetensors").unlink()
    with pytest.raises(UsageError, match=r"its evidence 'evidence\.safetensors' does not lie beside it"):
        verify_file(path)
    (tmp_path / "evidence.safetensors").mkdir()
    with pytest.raises(UsageError, match="does not lie beside it"):
        verify_file(path)


def test_evidence_is_never_read_from_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    path = saved(tmp_path / "in")
    (tmp_path / "in" / "evidence.safetensors").rename(tmp_path / "x")
    forge(path, lambda body: body["evidence"].update(file="../x"))
    with pytest.raises(UsageError, match=r"must be a file beside the result, got '\.\./x'"):
        verify_file(path)


def test_another_battery_is_not_judged(tmp_path: Path) -> None:
    path = saved(tmp_path)
    forge(path, lambda body: body.update(battery="7"))
    with pytest.raises(
        UsageError,
        match=f"made with battery 7, this version computes battery {BATTERY}; verify it with the unlearnkit that wrote",
    ):
        verify_file(path)


def test_a_report_whose_attached_result_was_changed_is_refused(tmp_path: Path) -> None:
    """Digest, statements and evidence fit each other, the pages say something else."""
    result, sidecar = written()
    other = dataclasses.replace(result, organization="Somebody Else")
    path = tmp_path / "report.pdf"
    path.write_bytes(_with_attachment(pdf(), other.to_json().encode(), sidecar))
    checked = verify_file(path)
    assert [check.passed for check in checked.checks] == [True, True, False]
    assert checked.checks[-1].sentence.endswith("another version of unlearnkit, Typst, Matplotlib or Pillow wrote them")
    body = json.loads(result.to_json())
    body["tests"][0]["p"] = step(body["tests"][0]["p"])
    path.write_bytes(_with_attachment(pdf(), reseal(body).encode(), sidecar))
    checked = verify_file(path)
    assert checked.checks[-1].sentence.startswith("tests[0].p is ")
    path.write_bytes(_with_attachment(pdf(), json.dumps(body).encode(), sidecar))
    with pytest.raises(UsageError, match="does not match its own digest"):
        verify_file(path)


def test_altered_pages_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "report.pdf"
    path.write_bytes(pdf() + b"% one more line\n")
    checked = verify_file(path)
    assert [check.passed for check in checked.checks] == [True, True, False]


def test_a_report_with_other_evidence_attached_is_refused(tmp_path: Path) -> None:
    result, sidecar = written()
    path = tmp_path / "report.pdf"
    path.write_bytes(_with_attachment(pdf(), result.to_json().encode(), sidecar[:-1] + b"x"))
    checked = verify_file(path)
    assert not checked.passed
    assert [check.name for check in checked.checks] == ["evidence"]


def test_a_pdf_without_evidence(tmp_path: Path) -> None:
    from pypdf import PdfWriter

    writer = PdfWriter()
    writer.add_blank_page(100, 100)
    with (tmp_path / "empty.pdf").open("wb") as file:
        writer.write(file)
    with pytest.raises(UsageError, match=r"empty\.pdf: a PDF without evidence"):
        verify_file(tmp_path / "empty.pdf")


def _with_attachment(document: bytes, audit: bytes, sidecar: bytes) -> bytes:
    import io

    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter()
    writer.append_pages_from_reader(PdfReader(io.BytesIO(document)))
    writer.add_attachment("audit.json", audit)
    writer.add_attachment("evidence.safetensors", sidecar)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def test_what_is_no_pdf_or_a_damaged_one_is_told_in_our_words_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "report.pdf"
    path.write_text("hello")
    with pytest.raises(
        UsageError, match=r"report\.pdf: is no PDF, whatever its name says; give the report as unlearnkit"
    ):
        verify_file(path)
    path.write_bytes(pdf()[: len(pdf()) // 2])
    with pytest.raises(UsageError, match=r"report\.pdf: a damaged PDF"):
        verify_file(path)
    assert not caplog.records  # pypdf says nothing beside


@pytest.mark.parametrize("name", ["report.html", "card.md"])
def test_a_page_without_evidence_is_named_as_that(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("<!doctype html>")
    with pytest.raises(UsageError, match=f"{name}: a page without its evidence; verify the PDF, or the audit.json"):
        verify_file(tmp_path / name)
