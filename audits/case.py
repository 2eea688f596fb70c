"""A spec made concrete: the data with their canaries, the recipe, and the rows that every set consists of."""

from __future__ import annotations

import dataclasses
import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped
from numpy.typing import NDArray

from unlearnkit.audits import canaries
from unlearnkit.audits.duplicates import copies
from unlearnkit.audits.spec import Spec, naming
from unlearnkit.data import Dataset, load
from unlearnkit.jobs import Sets, TrainJob
from unlearnkit.methods import method_named
from unlearnkit.models import Architecture, build, read_metadata
from unlearnkit.result import Flag, UsageError
from unlearnkit.store import content_key
from unlearnkit.train import Recipe, device_of
from unlearnkit.types import Deletion, Examples, Method, Need
from unlearnkit.unlearning import check_request


@dataclass(frozen=True, eq=False)
class Case:
    """A spec made concrete: the data with their canaries, the recipe, and the rows of every set."""

    spec: Spec
    dataset: Dataset
    recipe: Recipe
    train: Examples  # all rows, canaries under their planted labels
    trained: NDArray[np.int64]  # rows that the original is trained on
    heads: NDArray[np.int64]
    tails: NDArray[np.int64]
    manifest: canaries.Manifest | None

    @property
    def original(self) -> TrainJob:
        """The training of the original."""
        return TrainJob("original", self.recipe, self.seeds("original", 1)[0], self.trained)

    @property
    def origin(self) -> dict[str, str]:
        """Metadata by which the file of a model says what it was made from: recipe, training data, canaries."""
        recipe = dataclasses.asdict(self.recipe)
        del recipe["compiled"]  # decides how fast a model is trained, not which
        planted = {} if self.manifest is None else {"canaries": self.manifest.commitment}
        return {"recipe": content_key(recipe), "data": self.train.fingerprint, **planted}

    @property
    def sets(self) -> Sets:
        """What the rows of jobs are rows of."""
        return Sets(self.train, self.dataset.test)

    def seeds(self, what: str, count: int) -> list[int]:
        """Seeds of one kind of training (`seeds_of`)."""
        return seeds_of(self.spec, what, count)


def seeds_of(spec: Spec, what: str, count: int) -> list[int]:
    """Seeds of one kind of training; kinds never share one, whatever the audit's seed."""
    tag = int.from_bytes(hashlib.sha256(what.encode()).digest()[:4], "big")
    state = np.random.SeedSequence([spec.audit.seed, tag]).generate_state(count)
    return [int(seed) for seed in state]


@dataclass(frozen=True, eq=False)
class Demand:
    """A deletion made concrete: the rows to forget, the rows to keep, and the held-out examples they compare with."""

    deletion: Deletion
    forget: NDArray[np.int64]
    retain: NDArray[np.int64]
    requested: NDArray[np.int64]  # forget rows that are no canaries
    heads: NDArray[np.int64]  # forget rows that are
    tails: NDArray[np.int64]  # their counterparts, never used
    held_out: NDArray[np.int64]  # rows of the test set that the audit looks at
    twins: NDArray[np.int64]  # of these: the ones matched to the requested examples
    unseen: NDArray[np.int64] | None  # the other rows of the test set, lent to a method that needs held-out examples
    notes: tuple[Flag, ...]  # what a reader must know of these sets

    @property
    def kind(self) -> Literal["class", "examples"]:
        return "examples" if self.deletion.forget_class is None else "class"


def prepare(spec: Spec, *, sealed: Path | None = None) -> Case:
    """Load the data and plant the canaries.

    sealed: where the manifest of canaries that are drawn here is kept. It is written before anything is trained, and
    read when it is there already, so that an interrupted run goes on with the same coins.
    """
    with naming(spec.file):
        return _prepare(spec, sealed)


def _prepare(spec: Spec, sealed: Path | None) -> Case:
    device_of(spec.audit.device)
    folder = str(spec.folder.resolve())
    if folder not in sys.path:
        sys.path.insert(0, folder)  # module:function of a spec lies beside it, like every path in it
    data = spec.data
    source = data.source
    for prefix in ("npz:", "folder:"):
        if source.startswith(prefix):
            source = prefix + str(spec.path(source.removeprefix(prefix)))
    loaded = load(
        source,
        seed=data.seed,
        root=None if data.root is None else spec.path(data.root),
        download=data.download,
        test_fraction=data.test_fraction,
    )
    dataset = dataclasses.replace(loaded, source=data.source)  # as the user wrote it, wherever the command ran
    architecture = Architecture(
        spec.model.architecture, dataset.num_classes, dataset.shape, private=spec.recipe.privacy is not None
    )
    recipe = Recipe(architecture, **vars(spec.recipe))
    build(architecture, seed=0)  # an unknown name or a wrong shape shows before anything is trained
    manifest: canaries.Manifest | None = None
    if spec.canaries.manifest is not None:
        manifest = canaries.Manifest.load(spec.path(spec.canaries.manifest))
    elif spec.canaries.count:
        if spec.model.weights is not None:
            raise UsageError(
                "canaries.count: canaries are planted when the original is trained, but model.weights names a model "
                "that is trained already; give canaries.manifest, or leave model.weights out"
            )
        manifest = _sealed(spec, dataset, sealed)
    train, heads, tails = dataset.train, np.array([], dtype=np.int64), np.array([], dtype=np.int64)
    if manifest is not None:
        planted = canaries.plant(train, manifest)
        train, heads, tails = planted.train, planted.heads, planted.tails
    trained = np.setdiff1d(np.arange(len(train)), tails)
    case = Case(spec, dataset, recipe, train, trained, heads, tails, manifest)
    for name, weights in (("model.weights", spec.model.weights), ("audit.unlearned", spec.audit.unlearned)):
        if weights is not None:
            _check_origin(name, spec.path(weights), case.origin)
    return case


def _check_origin(name: str, path: Path, here: dict[str, str]) -> None:
    """A file that says what it was made from must not be held against models made from something else."""
    said = read_metadata(path)
    if said.get("canaries", here.get("canaries")) != here.get("canaries"):
        return  # whoever takes the weights in says which manifest is missing
    if said.get("data", here["data"]) != here["data"]:
        raise UsageError(
            f"{name}: {path} was trained on other examples than this spec trains on, and may know those that it holds "
            "out; give the [data] and [canaries] of its training"
        )
    if said.get("recipe", here["recipe"]) != here["recipe"]:
        raise UsageError(
            f"{name}: {path} was trained by another recipe than the models that it would be held against; give the "
            "[model] and [recipe] of its training"
        )


def _sealed(spec: Spec, dataset: Dataset, sealed: Path | None) -> canaries.Manifest:
    """The canaries of this run: repeated from the spec's seed, read from where they lie sealed, or drawn and sealed."""
    count, seed, kind, amount = spec.canaries.count, spec.canaries.seed, spec.canaries.kind, spec.canaries.amount
    if seed is None and sealed is not None and sealed.exists():
        manifest = canaries.Manifest.load(sealed)
        if len(manifest.ids) != count:
            raise UsageError(
                f"{sealed}: seals {len(manifest.ids)} canaries, but canaries.count asks for {count}; "
                "name another folder with --out"
            )
        held = manifest.treatment.amount if manifest.treatment is not None else None
        if manifest.kind != kind or amount not in (None, held):
            asked = kind if amount is None else f"{kind} {amount:g}"
            raise UsageError(
                f"{sealed}: seals {manifest.kind} canaries{'' if not held else f' of {held:g}'}, but the spec asks for "
                f"{asked}; name another folder with --out"
            )
        return manifest
    manifest = canaries.draw(
        dataset.train, count=count, classes=dataset.num_classes, seed=seed, kind=kind, amount=amount
    )
    if sealed is not None:
        manifest.save(sealed)
    return manifest


def method_of(case: Case, *, required: bool = True) -> Method | None:
    """The method of the case's spec (`method_in`)."""
    with naming(case.spec.file):
        return method_in(case.spec, required=required)


def method_in(spec: Spec, *, required: bool = True) -> Method | None:
    """The method of the spec, or None where somebody else's result is audited."""
    if spec.audit.unlearned is not None or (spec.method is None and not required):
        return None
    if spec.method is None:
        raise UsageError(
            "spec: a [method] section is needed, or audit.unlearned with the weights that somebody else unlearned"
        )
    if spec.method.name == "none":  # the untouched original itself
        return None
    return method_named(spec.method.name, spec.method.params)


def demand(case: Case) -> Demand:
    """Resolve the request. A request for examples takes all canaries with it; a class takes those of its label."""
    with naming(case.spec.file):
        return _demand(case)


def _demand(case: Case) -> Demand:
    wanted = case.spec.deletion
    if wanted is None:
        raise UsageError("spec: a [deletion] section is needed; say what is to be forgotten")
    ids = None
    if wanted.forget_ids is not None:
        path = case.spec.path(wanted.forget_ids)
        try:
            ids = tuple(line.strip() for line in path.read_text().splitlines() if line.strip())
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UsageError(f"deletion.forget_ids: {path} cannot be read ({reason})") from error
    deletion = Deletion(wanted.id, wanted.forget_class, ids, wanted.forget_fraction, wanted.seed)
    labels = case.train.labels().numpy()
    natural = np.setdiff1d(case.trained, case.heads)
    unused = sorted(set(ids or ()) & set(case.train.ids[case.tails].tolist()))
    if unused:
        raise UsageError(
            f"deletion.forget_ids: {unused[0]!r} is a canary that was never trained on ({len(unused)} such ids); "
            "there is nothing of it to forget, leave it out of the list"
        )
    if deletion.forget_class is not None:
        forget = case.trained[deletion.rows(case.train.ids[case.trained], labels[case.trained])]
        heads = np.intersect1d(forget, case.heads)
        tails = case.tails[labels[case.tails] == deletion.forget_class]
    else:
        pool = natural if deletion.forget_fraction is not None else case.trained
        forget = np.union1d(pool[deletion.rows(case.train.ids[pool], labels[pool])], case.heads)
        heads, tails = case.heads, case.tails
    requested = np.setdiff1d(forget, heads)
    retain = np.setdiff1d(case.trained, forget)
    if not requested.size:
        raise UsageError(f"deletion {deletion.id!r}: only canaries would be forgotten; name real examples too")
    if not retain.size:
        raise UsageError(f"deletion {deletion.id!r}: nothing would be left to train on; keep some examples")
    test_labels = case.dataset.test.labels().numpy()
    held_out, unseen = np.arange(test_labels.size), None
    method = method_of(case, required=False)
    if method is not None:  # before anything is trained
        check_request(method, forget=forget.size, retain=retain.size, forget_class=deletion.forget_class)
    if method is not None and Need.UNSEEN in method.needs:
        held_out, unseen = lend(test_labels, case.seeds("unseen", 1)[0])
    notes: list[Flag] = []
    asked = held_out[np.isin(test_labels[held_out], labels[requested])]
    known = copies(case.dataset.test.take(asked), case.train, case.trained)
    if known:
        doubles = asked[list(known)]
        notes.append(_doubles("twins with copies", "held-out examples", case.dataset.test.ids[doubles], "left out"))
    asked = np.setdiff1d(asked, asked[list(known)])
    twins = asked[_matched(labels[requested], test_labels[asked])]
    known = copies(case.train.take(tails), case.train, case.trained)
    if known:
        doubles = tails[list(known)]
        notes.append(_doubles("canaries with copies", "never-used canaries", case.train.ids[doubles], "kept"))
    if not twins.size:
        raise UsageError(
            f"deletion {deletion.id!r}: the test set holds no example of the classes to be forgotten; "
            "held-out examples of them are needed as a comparison"
        )
    return Demand(deletion, forget, retain, requested, heads, tails, held_out, twins, unseen, tuple(notes))


def _doubles(name: str, what: str, ids: Shaped[np.ndarray, " n"], done: str) -> Flag:
    return Flag(
        name,
        f"{len(ids)} of the {what} have a near-copy among the training examples, the first is {str(ids[0])!r}; they "
        f"were {done}: a model knows them without having been trained on them.",
    )


def lend(labels: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The test set in two: what the audit looks at, and a fifth of each class for a method that asks for unseen data.

    What a method has seen is no held-out example any more, and must not be compared with.
    """
    rng = np.random.default_rng(seed)
    lent = np.concatenate(
        [rng.permutation(np.flatnonzero(labels == c))[: np.sum(labels == c) // 5] for c in np.unique(labels)]
    )
    if not lent.size:
        raise UsageError(
            "spec: the method needs held-out examples of its own, a fifth of the test set, which is too small"
        )
    return np.setdiff1d(np.arange(labels.size), lent), np.sort(lent)


def _matched(wanted: NDArray[np.int64], held_out: NDArray[np.int64]) -> NDArray[np.int64]:
    """As many held-out rows as there are with the class shares of the requested examples, at least one a class.

    A class that is easier than another would otherwise look like a leak where it is requested more often.
    """
    classes, counts = np.unique(wanted, return_counts=True)
    rows = {int(c): np.flatnonzero(held_out == c) for c in classes}
    present = [(rows[int(c)], int(n)) for c, n in zip(classes, counts, strict=True) if rows[int(c)].size]
    if not present:
        return np.array([], dtype=np.int64)
    times = min(found.size / n for found, n in present)
    return np.sort(np.concatenate([found[: max(1, int(times * n))] for found, n in present]))
