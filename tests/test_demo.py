"""The demo's specs: six that read, two deletions by three subjects, and the words the demo stands for."""

from __future__ import annotations

from unlearnkit.audits.audit import method_of, oracle_jobs
from unlearnkit.audits.case import demand, prepare
from unlearnkit.audits.demo import DELETIONS, SUBJECTS, specs
from unlearnkit.audits.rank import oracles_needed
from unlearnkit.methods import METHODS


def test_six_specs_with_the_words_expected_of_them() -> None:
    made = specs()
    assert list(made) == [(deletion, subject) for deletion in DELETIONS for subject in SUBJECTS]
    assert len(made) == 6
    assert {subject: expected for subject, (_, _, expected) in SUBJECTS.items()} == {
        "original": "FAIL",
        "finetune": "FAIL",
        "retrain": "PASS",
    }
    for (deletion, subject), spec in made.items():
        assert spec.deletion is not None
        assert spec.deletion.id == DELETIONS[deletion][1]["id"]
        assert spec.method is not None
        assert spec.method.name == SUBJECTS[subject][1]["name"]
        assert spec.method.name == "none" or spec.method.name in METHODS
        assert spec.audit.oracles >= oracles_needed(significance=spec.audit.significance)


def test_all_six_share_one_original_and_each_deletion_its_oracles() -> None:
    made = specs()
    cases = {key: prepare(spec) for key, spec in made.items()}
    data = {case.train.fingerprint for case in cases.values()}
    assert len(data) == 1
    assert len({case.original.key(data.copy().pop(), "cpu") for case in cases.values()}) == 1
    for deletion in DELETIONS:
        keys = [
            [job.key(case.train.fingerprint, "cpu") for job in oracle_jobs(case, demand(case))]
            for (name, _), case in cases.items()
            if name == deletion
        ]
        assert keys[0] == keys[1] == keys[2]
        assert len(set(keys[0])) == 20
    for (_, subject), case in cases.items():
        assert (method_of(case) is None) == (subject == "original")
