"""The spec: the example of the design reads, and every mistake becomes one sentence that names the key."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from unlearnkit.audits.case import demand, method_of, prepare
from unlearnkit.audits.designs import Tolerances
from unlearnkit.audits.spec import (
    AuditSpec,
    CanarySpec,
    DeletionSpec,
    MethodSpec,
    ModelSpec,
    RecipeSpec,
    Spec,
    parse_overrides,
    parse_spec,
    read_spec,
)
from unlearnkit.audits.subjects import oracle_jobs
from unlearnkit.result import UsageError
from unlearnkit.train import Privacy, Recipe

EXAMPLE = """
[data]
source = "digits"              # npz:PATH (MedMNIST layout), folder:PATH, torchvision:NAME, or module:function
[model]
architecture = "small-cnn"     # torchvision:resnet18, resnet18-cifar, or module:function
weights = "model.safetensors"  # left out: trained by the recipe
[recipe]
epochs = 20
[deletion]
id = "DR-2026-017"
forget_class = 3               # or forget_ids = "forget.txt", or forget_fraction = 0.1
[method]
name = "SalUn"
lr = 0.013
[audit]
tier = "minutes"
seed = 0
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "spec.toml"
    path.write_text(text)
    return path


def test_the_example_of_the_design(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, EXAMPLE))
    assert spec.model.weights == "model.safetensors"
    assert spec.path("model.safetensors") == tmp_path / "model.safetensors"
    assert spec.deletion == DeletionSpec("DR-2026-017", forget_class=3)
    assert spec.method == MethodSpec("SalUn", {"lr": 0.013})
    assert spec.audit == AuditSpec()
    assert spec.audit.tier == "minutes"


def test_an_empty_file_is_all_defaults(tmp_path: Path) -> None:
    assert read_spec(write(tmp_path, "")) == Spec(folder=tmp_path)


def test_the_recipe_has_the_defaults_of_the_training_loop() -> None:
    spec = {f.name: f.default for f in dataclasses.fields(RecipeSpec)}
    recipe = {f.name: f.default for f in dataclasses.fields(Recipe) if f.name != "architecture"}
    assert spec == recipe


PRIVATE = "[recipe.privacy]\nnoise_multiplier = 1\nclip = 0.5\n"


@pytest.mark.parametrize("more", ["", PRIVATE])
def test_plain_is_json_and_reads_back(tmp_path: Path, more: str) -> None:
    spec = read_spec(write(tmp_path, EXAMPLE + "[audit.tolerances]\nauc = 0.1\n" + more))
    plain = json.loads(json.dumps(spec.plain()))
    assert parse_spec(plain, folder=tmp_path) == spec
    given = {
        name: {key: value for key, value in section.items() if value is not None} for name, section in plain.items()
    }
    assert parse_spec(given, folder=tmp_path) == spec


def test_privacy_is_a_section_of_the_recipe(tmp_path: Path) -> None:
    spec = read_spec(write(tmp_path, EXAMPLE + PRIVATE))
    assert spec.recipe.privacy == Privacy(1.0, clip=0.5, delta=1e-5)
    assert spec.plain()["recipe"]["privacy"] == {"noise_multiplier": 1.0, "clip": 0.5, "delta": 1e-5}
    case = prepare(dataclasses.replace(spec, model=ModelSpec("mlp")))
    assert case.recipe.privacy == spec.recipe.privacy
    assert case.recipe.architecture.private
    plain = prepare(digits())
    assert plain.recipe.privacy is None
    assert not plain.recipe.architecture.private
    with pytest.raises(UsageError, match=r"recipe\.privacy: the trainer 'mine:fit' replaces the built-in loop"):
        prepare(digits(recipe={"trainer": "mine:fit", "privacy": {"noise_multiplier": 1.0}}))


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "spec.toml"
    path.write_bytes(b"\xef\xbb\xbf" + EXAMPLE.replace("\n", "\r\n").encode())
    assert read_spec(path).recipe.epochs == 20


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[recpie]\n", "unknown section [recpie]; did you mean 'recipe'?"),
        (
            "[zzz]\n",
            "unknown section [zzz]; there are data, model, recipe, canaries, deletion, audit, report, worst_case, "
            "method",
        ),
        ("seed = 1\n", "unknown section [seed]"),
        ("audit = 3\n", "audit must be a section ([audit] on a line of its own), got 3"),
        ("[recipe]\nepoch = 3\n", "recipe.epoch: unknown key; did you mean 'epochs'?"),
        ("[data]\nzzz = 3\n", "data.zzz: unknown key; known are source, root, download, test_fraction, seed"),
        ("[audit.tolerances]\nacu = 0.1\n", "audit.tolerances.acu: unknown key; did you mean 'auc'?"),
        ("[audit]\ntolerances = 0.1\n", "audit.tolerances: must be a section ([audit.tolerances]), got 0.1"),
        (
            "[recipe.privacy]\nnoise_multipler = 1.0\n",
            "recipe.privacy.noise_multipler: unknown key; did you mean 'noise_multiplier'?",
        ),
        ("[recipe.privacy]\nclip = 1.0\n", "recipe.privacy.noise_multiplier: is missing and has no default; say what"),
        ("[recipe]\nprivacy = 1.0\n", "recipe.privacy: must be a section ([recipe.privacy]), got 1.0"),
        (
            '[recipe.privacy]\nnoise_multiplier = "1"\n',
            "recipe.privacy.noise_multiplier: input should be a valid number, got '1'; write 1 without",
        ),
        (
            "[recipe.privacy]\nnoise_multiplier = -1\n",
            "recipe.privacy.noise_multiplier: must be above 0 and finite, got -1",
        ),
        (
            "[recipe.privacy]\nnoise_multiplier = 1\ndelta = 1\n",
            "recipe.privacy.delta: must lie between 0 and 1, got 1",
        ),
        ('[audit]\nseed = "zero"\n', "audit.seed: input should be a valid integer, got 'zero'"),
        ('[audit]\nseed = "0"\n', "audit.seed: input should be a valid integer, got '0'; write 0 without quotes"),
        ("[audit]\nseed = true\n", "audit.seed: input should be a valid integer, got True"),
        ("[recipe]\nepochs = 2.5\n", "recipe.epochs: input should be a valid integer, got 2.5"),
        ('[recipe]\nlr = "fast"\n', "recipe.lr: input should be a valid number, got 'fast'"),
        ('[recipe]\noptimizer = "sdg"\n', "recipe.optimizer: input should be 'sgd' or 'adamw', got 'sdg'"),
        ('[data]\ndownload = "yes"\n', "data.download: input should be a valid boolean, got 'yes'"),
        ("[data]\nsource = 3\n", "data.source: input should be a valid string, got 3"),
        ('[audit]\ntier = "days"\n', "audit.tier: input should be 'seconds', 'minutes' or 'hours', got 'days'"),
        ("[audit]\nseed = -1\n", "audit.seed: must be at least 0, got -1"),
        ("[data]\nseed = -1\n", "data.seed: must be at least 0, got -1"),
        ("[canaries]\nseed = -1\n", "canaries.seed: must be at least 0, got -1"),
        ("[deletion]\nseed = -1\n", "deletion.seed: must be at least 0, got -1"),
        ("[audit]\nsignificance = 5\n", "audit.significance: must lie between 0 and 1, got 5; write 5 percent as 0.05"),
        ("[audit]\npower = 80.0\n", "audit.power: must lie between 0 and 1, got 80; write 80 percent as 0.8"),
        ("[audit]\nsignificance = 0\n", "audit.significance: must lie between 0 and 1, got 0"),
        ("[audit]\npower = 0.06\n", "audit.power: must be at least 0.5, got 0.06; with less, a PASS would rest on"),
        ("[audit]\npower = nan\n", "audit.power: must lie between 0 and 1, got nan"),
        ("[audit.tolerances]\nauc = 5\n", "audit.tolerances.auc: must lie between 0 and 0.5, got 5; write 5 percent"),
        ("[audit.tolerances]\nmargin = 0\n", "audit.tolerances.margin: must lie between 0 and 100, got 0"),
        ('[audit]\ngroup_pattern = "["\n', "audit.group_pattern: '[' is no regular expression (unterminated"),
        ('[audit]\ngroup_pattern = "^a"\n', "audit.group_pattern: '^a' has no parenthesis around what names the group"),
        (
            '[audit]\ngroup_pattern = "^(a)"\ngroup_file = "groups.csv"\n',
            "audit.group_file: audit.group_pattern already says how held-out examples are grouped; give one of them",
        ),
        ("[audit]\ngroup_flie = 1\n", "audit.group_flie: unknown key; did you mean 'group_file'?"),
        ("[method]\nlr = 0.1\n", "method.name must name a method ('unlearnkit methods' lists them), got None"),
        ("[method]\nname = 3\n", "method.name must name a method ('unlearnkit methods' lists them), got 3"),
        ("[deletion\n", "not valid TOML: "),
        ("[audit]\nseed = 1\nseed = 2\n", "not valid TOML: "),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        read_spec(write(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"{tmp_path / 'spec.toml'}: ")


def test_files_that_are_no_specs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml: no such spec file"):
        read_spec(tmp_path / "none.toml")
    with pytest.raises(UsageError, match="is a folder; name the TOML file in it"):
        read_spec(tmp_path)
    (tmp_path / "binary").write_bytes(bytes(range(256)))
    with pytest.raises(UsageError, match="is not text; a spec is a TOML file in UTF-8"):
        read_spec(tmp_path / "binary")


def test_paths_are_relative_to_the_folder_of_the_spec(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "specs"
    folder.mkdir()
    path = write(folder, '[deletion]\nforget_ids = "forget.txt"\n')
    (folder / "forget.txt").write_text("\n digits/0000 \n\n")
    monkeypatch.chdir(tmp_path)
    spec = read_spec(Path("specs/spec.toml"))
    assert spec.path("forget.txt").read_text().strip() == "digits/0000"
    assert read_spec(path).path(str(tmp_path / "elsewhere")) == tmp_path / "elsewhere"


def test_overrides_are_checked_like_the_file(tmp_path: Path) -> None:
    spec = parse_spec({"audit": {"oracles": 23, "tolerances": {"auc": 0.1}}}, folder=tmp_path)
    assert parse_overrides(spec, tier=None, device=None) is spec
    changed = parse_overrides(spec, tier="seconds", device="cuda:1")
    assert changed.audit == AuditSpec("seconds", oracles=23, device="cuda:1", tolerances=Tolerances(auc=0.1))
    assert dataclasses.replace(changed, audit=spec.audit) == spec
    with pytest.raises(UsageError, match=r"audit\.tier: input should be 'seconds', 'minutes' or 'hours', got 'days'"):
        parse_overrides(spec, tier="days", device=None)


def digits(**sections: Any) -> Spec:
    return parse_spec({"model": {"architecture": "mlp"}, "recipe": {"epochs": 1}, **sections}, folder=Path())


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({}, r"a \[deletion\] section is needed; say what is to be forgotten"),
        ({"deletion": {}}, "give exactly one of forget_class, forget_ids, forget_fraction; got none of them"),
        (
            {"deletion": {"forget_class": 3, "forget_fraction": 0.1}},
            "give exactly one of .* got forget_class and forget_fraction",
        ),
        (
            {"deletion": {"forget_fraction": 10.0}},
            r"forget_fraction must lie between 0 and 1 \(0\.1 is a tenth\), got 10",
        ),
        ({"deletion": {"forget_fraction": 0.0001}}, "forget_fraction 0.0001 of 1437 examples is none"),
        ({"deletion": {"forget_class": 12}}, "class 12 does not occur in the training data; classes are 0 to 9"),
        ({"deletion": {"forget_class": -1}}, "class -1 does not occur in the training data"),
        ({"deletion": {"forget_ids": "none.txt"}}, r"deletion\.forget_ids: none\.txt cannot be read"),
    ],
)
def test_requests_that_make_no_sense(sections: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        demand(prepare(digits(**sections)))


def test_a_method_is_needed() -> None:
    case = prepare(digits(deletion={"forget_class": 3}))
    with pytest.raises(UsageError, match=r"a \[method\] section is needed, or audit\.unlearned"):
        method_of(case)
    with pytest.raises(UsageError, match="did you mean 'FineTune'"):
        method_of(prepare(digits(method={"name": "FineTun"})))
    assert method_of(prepare(digits(method={"name": "none"}))) is None


def test_too_few_oracles_say_how_many() -> None:
    for significance, least in ((0.05, 19), (0.01, 99)):
        case = prepare(digits(deletion={"forget_class": 3}, audit={"oracles": least - 1, "significance": significance}))
        with pytest.raises(UsageError, match=rf"needs at least {least} retrained models .* got {least - 1}; raise it"):
            oracle_jobs(case, demand(case))


def test_canaries_cannot_be_planted_in_a_trained_model() -> None:
    spec = digits(canaries={"count": 60})
    spec = dataclasses.replace(spec, model=dataclasses.replace(spec.model, weights="model.safetensors"))
    with pytest.raises(UsageError, match=r"canaries\.count: canaries are planted when the original is trained"):
        prepare(spec)


def test_tails_are_nowhere_in_training_and_heads_are_deleted() -> None:
    case = prepare(digits(canaries={"count": 100, "seed": 0}, deletion={"forget_fraction": 0.1}))
    wanted = demand(case)
    oracle = oracle_jobs(case, wanted)[0]
    for rows in (case.trained, case.original.rows, wanted.forget, wanted.retain, oracle.rows):
        assert not set(rows.tolist()) & set(case.tails.tolist())
    assert set(case.heads.tolist()) <= set(wanted.forget.tolist())
    assert set(wanted.requested.tolist()) == set(wanted.forget.tolist()) - set(case.heads.tolist())
    assert sorted([*wanted.forget.tolist(), *wanted.retain.tolist()]) == case.trained.tolist()
    assert case.trained.size + case.tails.size == len(case.train)
    assert not set(case.dataset.test.ids[wanted.twins].tolist()) & set(case.train.ids.tolist())
    assert wanted.requested.size == round(0.1 * (case.trained.size - 50))


def test_a_class_takes_the_canaries_of_its_label() -> None:
    case = prepare(digits(canaries={"count": 400, "seed": 0}, deletion={"forget_class": 3}))
    wanted = demand(case)
    labels = case.train.labels().numpy()
    assert wanted.kind == "class"
    for rows in (wanted.forget, wanted.heads, wanted.tails):
        assert (labels[rows] == 3).all()
    assert not (labels[wanted.retain] == 3).any()
    assert 0 < wanted.heads.size < 200
    assert (case.dataset.test.labels().numpy()[wanted.twins] == 3).all()


def test_seeds_of_different_kinds_are_never_shared() -> None:
    case = prepare(digits())
    seeds = [seed for what in ("original", "oracle", "unlearn") for seed in case.seeds(what, 50)]
    assert len(set(seeds)) == 150
    assert case.seeds("oracle", 3) == case.seeds("oracle", 50)[:3]


def test_the_spec_is_checked_before_anything_is_trained() -> None:
    assert CanarySpec().count == 0
    with pytest.raises(UsageError, match=r"unknown name 'mpl'.*did you mean 'mlp'"):
        prepare(parse_spec({"model": {"architecture": "mpl"}}, folder=Path()))
    with pytest.raises(UsageError, match=r"recipe\.epochs: must be at least 1, got 0"):
        prepare(parse_spec({"recipe": {"epochs": 0}}, folder=Path()))
