"""The demo's specs: six that read, two deletions by three subjects, and the words the demo stands for."""

from __future__ import annotations

from pathlib import Path

from unlearnkit.audits.audit import fleet_for
from unlearnkit.audits.case import demand, method_of, prepare
from unlearnkit.audits.demo import DELETIONS, SUBJECTS, specs
from unlearnkit.audits.statistics.rank import oracles_needed
from unlearnkit.audits.subjects import oracle_jobs
from unlearnkit.methods import METHODS
from unlearnkit.store import Store


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


def test_all_six_share_one_original_and_each_deletion_its_oracles(tmp_path: Path) -> None:
    made = specs()
    cases = {key: prepare(spec) for key, spec in made.items()}
    assert len({case.train.fingerprint for case in cases.values()}) == 1
    fleet = fleet_for(next(iter(cases.values())), Store(tmp_path))
    assert len({fleet.key(case.original) for case in cases.values()}) == 1
    for deletion in DELETIONS:
        keys = [
            [fleet.key(job) for job in oracle_jobs(case, demand(case))]
            for (name, _), case in cases.items()
            if name == deletion
        ]
        assert keys[0] == keys[1] == keys[2]
        assert len(set(keys[0])) == len(keys[0]) > oracles_needed(significance=0.05)
    for (_, subject), case in cases.items():
        assert (method_of(case) is None) == (subject == "original")
