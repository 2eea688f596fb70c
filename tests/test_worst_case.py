"""From a spec to worst_case.json: every mistake one sentence, the whole way with a page, and the same again."""

from __future__ import annotations

import dataclasses
import functools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from stress_samples import stress_evidence

from unlearnkit.attacks import ATTACKS, RMIAOffline
from unlearnkit.audits import audit, cli
from unlearnkit.audits.case import prepare
from unlearnkit.audits.spec import parse_spec
from unlearnkit.audits.verify import verify_file, verify_worst_case
from unlearnkit.audits.worst_case.gaps import Instruments, measured
from unlearnkit.audits.worst_case.search import plan, save_worst_case, worst_case
from unlearnkit.audits.worst_case.standing import NO_WORST_CASE, headline, standing_flags, standings
from unlearnkit.fleet import Fleet
from unlearnkit.hardest import WorstCase
from unlearnkit.reports.numbers import number
from unlearnkit.reports.pdf import PdfReader
from unlearnkit.reports.worst_case import _view, render, write_page
from unlearnkit.result import Interval, UsageError
from unlearnkit.store import Store

DATA = """
import numpy as np
import torch
from unlearnkit.types import Examples

def examples(n, seed, prefix, classes=3):
    rng = np.random.default_rng(seed)
    y = np.arange(n) % classes
    x = rng.integers(0, 90, (n, 1, 8, 8))
    for row, label in enumerate(y):
        x[row, 0, 2 * label : 2 * label + 3] += 120
    ids = np.array([f"{prefix}{row % 4}/{row}" for row in range(n)])
    return Examples(torch.from_numpy(x.astype(np.uint8)), torch.from_numpy(y), ids)

def blobs():
    return examples(60, 0, "person"), examples(30, 1, "test")

def alone():
    return examples(20, 0, "person", 1), examples(10, 1, "test", 2)
"""


def body(**changes):
    settings = {"size": 6, "upper": 2, "lower": 1, "oracles": 2, "unlearnings": 1, "pool": 4, **changes}
    return {
        "data": {"source": "worst_case_data:blobs"},
        "model": {"architecture": "mlp"},
        "recipe": {"epochs": 2, "batch_size": 16},
        "method": {"name": "FineTune", "epochs": 1},
        "worst_case": settings,
    }


@pytest.fixture
def work(tmp_path, write_module):
    """work(**changes of [worst_case], **sections): the search made concrete."""
    write_module("worst_case_data", DATA)

    def make(sections=None, **changes):
        spec = parse_spec({**body(**changes), **(sections or {})}, folder=tmp_path)
        case = prepare(spec)
        return plan(case, Fleet(case.sets, Store(tmp_path / "store"), processes=1), ATTACKS)

    return make


@pytest.fixture(scope="module")
def near(tmp_path_factory):
    """A whole search and its evidence, for tests that only read them."""
    folder = tmp_path_factory.mktemp("near")
    (folder / "near_data.py").write_text(DATA)
    spec = parse_spec({**body(search="near"), "data": {"source": "near_data:blobs"}}, folder=folder)
    case = prepare(spec)
    made = plan(case, Fleet(case.sets, Store(folder / "store"), processes=1), ATTACKS)
    return worst_case(made, instruments=Instruments(), command="unlearnkit worst-case")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"size": 0}, "worst_case.size: must lie between 1 and 59 of the 60 training examples, got 0"),
        ({"size": 60}, "between 1 and 59 of the 60 training examples, got 60"),
        ({"size": 1.5}, "worst_case.size: must be a whole number, or a share between 0 and 1, got 1.5"),
        ({"size": 3, "over": "classes"}, "between 1 and 2 of the 3 classes, got 3"),
        ({"methods": ["FineTun"]}, "worst_case.methods.name: there is no method 'FineTun'; did you mean 'FineTune'"),
        ({"methods": [{"lr": 0.1}]}, "worst_case.methods: each must be a name or a table with a name"),
        ({"methods": ["ClassVectors"]}, "ClassVectors forgets whole classes only and cannot be asked for a set"),
        ({"against": ["ClassVectors"]}, "ClassVectors forgets whole classes only and cannot be asked for a set"),
        ({"budget": 1}, "worst_case.budget: 1 passes are too few for one upper step, which takes 2"),
        ({"search": "attack", "budget": 2}, "worst_case.budget: 2 unlearnings are too few for one exchange"),
        ({"search": "attack", "attack": "Treshold"}, "there is no attack 'Treshold'; did you mean 'Threshold'"),
        ({"search": "attack", "attack": "LiRA"}, "worst_case.attack: LiRA needs 'in', and a search holds only 'out', "),
        ({"attack": "Threshold"}, "worst_case.attack: a search by 'bilevel' asks no attack; leave it out"),
        ({"search": "attack", "pool": 2}, "worst_case.pool: an attack search needs at least 4 models, so that two"),
        ({"search": "pool-loss", "against": ["FineTune"]}, "a search by 'pool-loss' asks no method; leave it out"),
        ({"size": 31}, "FineTune: the forget set must not be larger than the retain set, got 31 against 29 examples"),
        ({"search": "near", "size": 0.6}, "FineTune: the forget set must not be larger than the retain set, got 36"),
        ({"search": "attack", "size": 31}, "FineTune: the forget set must not be larger than the retain set, got 31"),
        ({"over": "classes", "size": 2}, "FineTune: the forget set must not be larger than the retain set, got 40"),
        ({"methods": ["Retrain"], "against": ["SSD"], "size": 31}, "SSD: the forget set must not be larger than the"),
        ({"methods": ["SSD", {"name": "SSD"}]}, "worst_case.methods: every method may stand there once, got SSD, SSD"),
        ({"against": ["SSD", {"name": "SSD", "alpha": 2}]}, "worst_case.against: every method may stand there once"),
        ({"search": "class"}, 'worst_case.forget_class: search = "class" needs one of the classes 0 to 2, got None'),
        ({"random": 3}, "worst_case.random: must be at least 5, got 3"),
        ({"serach": "bilevel"}, "worst_case.serach: unknown key; did you mean 'search'"),
        ({"seed": -1}, "worst_case.seed: must be at least 0, got -1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_trained(work, tmp_path, changes, said):
    with pytest.raises(UsageError) as refused:
        work(**changes)
    assert said in str(refused.value)
    assert not list((tmp_path / "store").rglob("*.safetensors"))


def test_one_class_no_method_and_canaries_are_refused(work):
    with pytest.raises(UsageError, match=r"worst_case.over: the training data hold one class only"):
        work({"data": {"source": "worst_case_data:alone"}}, size=1, over="classes")
    with pytest.raises(UsageError, match="name what is to be audited on the found set"):
        work({"method": {"name": "none"}})
    with pytest.raises(UsageError, match=r"canaries are the hardest examples by design; leave \[canaries\] out"):
        work({"data": {"source": "digits"}, "canaries": {"count": 40}})


def test_a_class_that_is_everything_is_refused(work):
    alone = work({"data": {"source": "worst_case_data:alone"}}, search="class", forget_class=0)
    with pytest.raises(UsageError, match="worst_case: class holds every training example; nothing would be retained"):
        worst_case(alone, instruments=Instruments(), command="")


def test_what_retraining_can_do_is_searched(work):
    """Retrain alone forgets more than it keeps."""
    assert work(size=31, methods=["Retrain"]).size == 31


def test_a_group_larger_than_the_rest_is_refused_once_it_is_known(work, tmp_path):
    """Three of four persons: the pattern's group is looked up by the search, and nothing is trained for it."""
    made = work(search="group", pattern="^(person)[0-2]/")
    with pytest.raises(UsageError, match="FineTune: the forget set must not be larger than the retain set, got 45"):
        worst_case(made, instruments=Instruments(), command="")
    assert not list((tmp_path / "store").rglob("*.safetensors"))


def test_a_group_needs_a_pattern(work):
    with pytest.raises(UsageError, match=r'worst_case.pattern: search = "group" needs it, .* ids look like'):
        worst_case(work(search="group"), instruments=Instruments(), command="")


@pytest.mark.parametrize(
    "changes",
    [
        {"search": "pool-loss"},
        {"search": "near"},
        {"search": "group", "pattern": "^(person[0-9])/"},
        {"search": "class", "forget_class": 2},
        {"search": "attack", "budget": 2, "repeats": 1, "attack": "Threshold"},
    ],
)
def test_every_search_goes_the_whole_way(work, tmp_path, changes):
    result, evidence = worst_case(work(**changes), instruments=Instruments(), command="unlearnkit worst-case")
    assert WorstCase.from_json(result.to_json()) == result
    assert [check for check in verify_worst_case(save_worst_case(tmp_path, result, evidence)) if not check.passed] == []
    assert len(set(result.searches[0].ids)) == result.sets[0].size > 0
    assert result.sentences[0].endswith(("as a worst case.", "one there.", ")."))
    assert result.sentences[1].startswith(f"{changes['search']}")
    assert result.id == changes["search"]
    if changes["search"] == "attack":
        assert "on seeds and oracles that it never saw, the gap in" in result.sentences[-1]
    if changes["search"] == "group":
        assert {name.split("/")[0] for name in result.searches[0].ids} == {result.searches[0].settings["group"]}
    own, others = result.cells[0], [c for c in result.cells if c.set != result.sets[0].name]
    rows = _view(result, [])["measures"][0]["rows"]
    usual = [
        np.mean([c.measures[0].audited.value for c in others]),
        np.mean([c.measures[0].oracles.value for c in others]),
    ]
    assert (rows[0]["name"], rows[0]["audited"]) == ("UA, %", number(own.measures[0].audited.value))
    assert rows[0]["random"] == [number(float(mean)) for mean in usual]
    assert _view(result, [])["counted"] == "UA, RA and TA"  # no efficacy among the instruments
    if changes["search"] == "class":
        assert render(result, evidence)[:5] == b"%PDF-"


def test_the_command_writes_ids_result_and_page_and_finds_the_same_again(tmp_path, write_module, monkeypatch, capsys):
    write_module("worst_case_data", DATA)
    monkeypatch.setattr(audit, "Fleet", functools.partial(Fleet, processes=1))  # no worker has to start
    spec = tmp_path / "spec.toml"
    spec.write_text(
        '[data]\nsource = "worst_case_data:blobs"\n[model]\narchitecture = "mlp"\n[recipe]\nepochs = 2\n'
        "batch_size = 16\n[worst_case]\nsize = 0.1\nupper = 2\nlower = 1\noracles = 2\nunlearnings = 1\n"
        'methods = [{name = "FineTune", epochs = 1}, {name = "SalUn", epochs = 1}]\nagainst = ["FineTune"]\n'
    )
    texts = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["unlearnkit", "worst-case", str(spec), "--out", str(tmp_path / "out")])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert stop.value.code in (0, None)
        texts.append((tmp_path / "out/worst_case.json").read_text())
    said = " ".join(capsys.readouterr().out.split())
    assert ("(no worst case: see above)" in said) == ("note: forget.txt holds" in said)
    assert said.index("cost: bilevel search against FineTune: 2 unlearnings") < said.index("average gap to retraining")
    first, second = (WorstCase.from_json(text) for text in texts)
    assert dataclasses.replace(second, environment=first.environment) == first
    ids = (tmp_path / "out/forget.txt").read_text().split()
    assert tuple(ids) == first.searches[0].ids
    assert len(ids) == 6
    pdf = PdfReader(tmp_path / "out/worst_case.pdf")
    assert set(pdf.attachments) == {"worst_case.json", "worst_case.safetensors"}
    said = " ".join(pdf.pages[0].extract_text().split())
    assert "Worst-case forget set: what the search found" in said
    assert first.sentences[0] in said
    assert "each method's UA, RA, TA and MIA efficacy lie from" in said.replace("’", "'")
    assert "hardest to forget" not in said
    # the ids are what a deletion reads
    case = prepare(parse_spec({**body(), "deletion": {"forget_ids": "out/forget.txt"}}, folder=tmp_path))
    from unlearnkit.audits.case import demand

    assert sorted(case.train.ids[demand(case).forget]) == sorted(ids)


def test_a_result_that_was_changed_or_is_none_is_refused(work, tmp_path):
    result, evidence = worst_case(work(search="near"), instruments=Instruments(), command="")
    assert result.searches[0].settings["entanglement"] > 0
    text = result.to_json()
    changed = text.replace('"oracles": 2', '"oracles": 3', 1)
    with pytest.raises(UsageError, match="the content does not match its own digest"):
        WorstCase.from_json(changed)
    with pytest.raises(UsageError, match=r"not a worst-case result of unlearnkit \(it has no 'searches'\)"):
        WorstCase.from_json(json.dumps({"schema": 1}))
    with pytest.raises(UsageError, match="not readable as JSON"):
        WorstCase.from_json("{")
    wrong = json.loads(text)
    wrong["oracles"] = "two"
    with pytest.raises(UsageError, match="not a valid worst-case result: oracles"):
        WorstCase.from_json(json.dumps(wrong))
    with pytest.raises(ValueError, match="Out of range float"):
        dataclasses.replace(result, confidence=float("nan")).to_json()
    with pytest.raises(UsageError, match=r"evidence: has SHA-256 .*, and the result names"):
        render(result, evidence + b"x")
    path = save_worst_case(tmp_path / "page", result, evidence)
    write_page(path, tmp_path / "page/a.pdf")
    write_page(path, tmp_path / "page/b.pdf")
    assert Path(tmp_path / "page/a.pdf").read_bytes() == Path(tmp_path / "page/b.pdf").read_bytes()
    for name in ("worst_case.json", "a.pdf"):
        checks = verify_worst_case(tmp_path / "page" / name)
        assert all(check.passed for check in checks), checks
        assert [check.name for check in checks] == ["evidence", "certificate", "forget.txt", "pages"][
            : 3 + (name[0] == "a")
        ]
        with pytest.raises(UsageError, match="a worst-case result and not an audit; it says what is hard to forget"):
            verify_file(tmp_path / "page" / name)
    whole = (tmp_path / "page/a.pdf").read_bytes()
    (tmp_path / "page/a.pdf").write_bytes(whole + b"% more\n")
    assert [check.passed for check in verify_worst_case(tmp_path / "page/a.pdf")] == [True, True, True, False]
    (tmp_path / "page/a.pdf").write_bytes(whole)
    ids = (tmp_path / "page/forget.txt").read_bytes()
    (tmp_path / "page/forget.txt").write_bytes(ids[ids.index(b"\n") + 1 :])
    [bad] = [check for check in verify_worst_case(path) if not check.passed]
    assert (bad.name, bad.sentence) == ("forget.txt", "holds other ids than 'near' has")
    (tmp_path / "page/forget.txt").unlink()
    (tmp_path / "page/worst_case.safetensors").write_bytes(evidence + b"x")
    assert [check.passed for check in verify_worst_case(path)] == [False, True]
    (tmp_path / "page/worst_case.safetensors").unlink()
    with pytest.raises(UsageError, match=r"its evidence 'worst_case\.safetensors' does not lie beside it"):
        verify_worst_case(path)
    with pytest.raises(UsageError, match=r"worst_case.safetensors: cannot be read \(No such file or directory\)"):
        write_page(path, tmp_path / "page/a.pdf")


def first_of(result, field, **changes):
    """The result with its first set, search, cell or row changed."""
    first, *rest = getattr(result, field)
    return dataclasses.replace(result, **{field: (dataclasses.replace(first, **changes), *rest)})


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda r: first_of(r, "hardness", p=0.01),
            "hardness.near..retrained UA.p is 0.01 in the file, its ids and cells",
        ),
        (lambda r: first_of(r, "hardness", found=99.0), "hardness.near..retrained UA.found is 99.0 in the file"),
        (lambda r: dataclasses.replace(r, hardness=r.hardness[1:]), "hardness is [["),
        (lambda r: dataclasses.replace(r, hardness=(r.hardness[0], *r.hardness)), "hardness is [["),
        (
            lambda r: first_of(r, "cells", average_gap=Interval(None, 0.5, None)),
            "hardness.near.FineTune.average gap.found",
        ),
        (lambda r: dataclasses.replace(r, cells=r.cells[:-1]), "cells is [["),
        (lambda r: first_of(r, "sets", fingerprint="0" * 64), "sets.near.fingerprint is '0000"),
        (
            lambda r: first_of(r, "searches", ids=r.searches[0].ids[1:]),
            "sets.near.size is 6 in the file, its ids and cel",
        ),
        (lambda r: first_of(r, "searches", scores=()), "searches.near.scores is 0 in the file"),
        (
            lambda r: first_of(r, "searches", set="far"),
            "searches[0] is 'far' in the file, its ids and cells give 'near'",
        ),
        (lambda r: first_of(r, "sets", retrained={}), "sets.near.retrained is []"),
        (lambda r: dataclasses.replace(r, flags=()), "flags, of worst cases is []"),
        (lambda r: dataclasses.replace(r, sentences=r.sentences[1:]), "sentences, of near is []"),
        (
            lambda r: first_of(r, "cells", measures=r.cells[0].measures[1:]),
            "cells.FineTune.",
        ),
    ],
)
def test_a_certificate_that_does_not_follow_from_its_own_cells_is_refused(near, tmp_path, change, sentence):
    result, evidence = near
    checks = verify_worst_case(save_worst_case(tmp_path, change(result), evidence))
    assert [check.name for check in checks if not check.passed][:1] == ["certificate"]
    assert checks[1].sentence.startswith(sentence)


def test_the_command_verifies_a_worst_case_and_says_that_it_is_no_audit(near, tmp_path, monkeypatch, capsys):
    result, evidence = near
    path = save_worst_case(tmp_path, result, evidence)

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["unlearnkit", "verify", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return stop.value.code or 0, " ".join((said.out + said.err).split())

    code, said = run(path)
    assert (code, "VERIFIED a worst-case result and not an audit: what its models answered is taken as" in said) == (
        0,
        True,
    )
    assert "ok certificate: 6 sets and 3 rows of hardness follow from its ids and cells ok forget.txt: holds" in said
    code, said = run(path, "--trust", path)
    assert (code, "a worst-case result and not an audit; it says what is hard" in said) == (2, True)
    code, said = run(tmp_path)
    assert (code, f"is a folder; name a file, {path}" in said) == (2, True)
    path.write_text(path.read_text().replace('"oracles": 2', '"oracles": 3', 1))
    code, said = run(path)
    assert (code, said.startswith("NO digest: ") and "REFUSED" in said) == (1, True)
    (tmp_path / "forget.txt").write_text("nobody\n")
    save_worst_case(tmp_path, result, evidence)
    (tmp_path / "forget.txt").write_text("nobody\n")
    code, said = run(path)
    assert (code, "NO forget.txt: holds other ids than 'near' has" in said) == (1, True)


def stand_of(leak, **second):
    """What is said of a set with known leaks (in σ) of one method, and of another, among five random sets."""
    sets = stress_evidence(0, leak=leak, found=["memorized"]).sets
    if second:
        other = stress_evidence(0, leak=second, found=["memorized"]).sets
        sets = tuple(
            dataclasses.replace(one, unlearned={**one.unlearned, "FineTune": two.unlearned["SalUn"]})
            for one, two in zip(sets, other, strict=True)
        )
    told = measured(sets, classes=10, confidence=0.95, instruments=Instruments())
    rows = standings(told.standings, "memorized")
    said = headline("memorized", rows, alone=True, whole=False)
    return said, standing_flags("memorized", rows, file="forget.txt", whole=False, confidence=0.95)


def test_a_set_that_is_harder_is_called_so():
    said, flags = stand_of({"memorized": -4.0})
    assert said.startswith("memorized is harder than random ones for SalUn (average gap ")
    assert "worst case" not in said
    assert [flag.name for flag in flags] == ["harder"]
    assert "above all 5 random sets and above Student's one-sided 95 % prediction limit" in flags[0].sentence


def test_a_set_that_is_easier_or_like_random_ones_is_no_worst_case():
    said, flags = stand_of({f"random {i}": -4.0 for i in range(1, 6)})
    assert said.startswith("The search found no set that is harder than random ones for SalUn (easier: average gap ")
    assert said.endswith(" on random sets); do not use it as a worst case.")
    assert flags[0].name == NO_WORST_CASE
    assert flags[0].sentence.startswith("forget.txt holds memorized, which is easier than random sets for SalUn")
    said, flags = stand_of({})
    assert "no set that is shown to be harder than random ones for SalUn (not shown to be harder: average gap" in said
    assert flags[0].name == NO_WORST_CASE
    assert "which is not shown to be harder than random sets for SalUn: no worst case" in flags[0].sentence
    said, _ = stand_of({}, **{f"random {i}": -4.0 for i in range(1, 6)})
    assert "for SalUn (not shown to be harder: average gap" in said
    assert "or FineTune (easier: average gap" in said


def test_a_set_that_is_harder_for_one_method_only_is_said_to_be():
    said, flags = stand_of({"memorized": -4.0}, memorized=0.0)
    assert said.startswith("memorized is harder than random ones for SalUn (average gap")
    assert "It is no worst case for FineTune (not shown to be harder: average gap" in said
    assert said.endswith("do not use it as one there.")
    assert [flag.name for flag in flags] == ["harder"]
    assert flags[0].sentence.endswith("each method is asked on its own.")


def test_of_an_attack_search_the_leak_it_looked_for_counts():
    sets = stress_evidence(0, leak={"memorized": 0.9}, found=["memorized"]).sets
    told = measured(sets, classes=10, confidence=0.95, instruments=Instruments({"RMIA": RMIAOffline()}))
    words = {
        m: standings(told.standings, "memorized", m)[0].measure for m in ("|RMIA AUC|", "|margin shift|", "|LiRA AUC|")
    }
    assert words == {"|RMIA AUC|": "|RMIA AUC|", "|margin shift|": "|margin shift|", "|LiRA AUC|": "|margin shift|"}
    assert "SalUn (gap in margin shift" in headline(
        "it", standings(told.standings, "memorized", "|margin shift|"), alone=True, whole=False
    )


def test_a_class_that_is_alone_is_not_called_hard():
    said = headline("class", [], alone=True, whole=True)
    assert said == "Nothing stands beside class, so nothing shows that it is hard; do not use it as a worst case."
    [flag] = standing_flags("class", [], file="forget.txt", whole=True, confidence=0.95)
    assert (
        flag.sentence
        == "forget.txt holds class, which has too few other classes beside it to be shown hard: no worst case."
    )


def test_the_same_name_with_other_settings_is_another_method(work):
    made = work(
        {"deletion": {"id": "DR-9", "forget_fraction": 0.1}},
        search="attack",
        budget=2,
        repeats=1,
        methods=[{"name": "FineTune", "epochs": 1}],
        against=[{"name": "FineTune", "epochs": 2}],
    )
    result, _ = worst_case(made, instruments=Instruments(), command="")
    assert result.sentences[-1] == (
        "FineTune with these settings is not among the audited methods, so its leak on this set was not measured again."
    )
    said = {flag.name: flag.sentence for flag in result.flags}
    assert said["other settings"] == (
        "The set was searched against FineTune with epochs = 2, and FineTune is audited with epochs = 1."
    )
    assert result.id == "DR-9"
    assert said["unused deletion"].startswith("deletion.forget_fraction of the spec is not used")


def test_the_hardest_images_are_those_of_the_ids(work):
    from safetensors.numpy import load

    made = work(search="pool-loss")
    result, evidence = worst_case(made, instruments=Instruments(), command="")
    rows = {name: i for i, name in enumerate(made.case.train.ids.tolist())}
    images = made.case.train.x.numpy()[[rows[name] for name in result.searches[0].ids]]
    np.testing.assert_array_equal(load(evidence)["images"], images[:10])
