"""Attacks that published tables quote: SVC "MIA efficacy" and the logistic "basic" attack. For comparison only.

Neither is evidence of forgetting, and `weight` keeps both out of verdicts. The functions give the numbers of the
tables; the attacks give the same classifiers' scores, so that what they see can be read as a ROC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float, Shaped
from numpy.typing import NDArray

from unlearnkit.attacks.signals import confidence, loss
from unlearnkit.result import UsageError
from unlearnkit.types import Attack, Holds, Known, Observation

_CLIP = 100.0  # nats, of losses


@dataclass(frozen=True)
class MiaEfficacy(Attack):
    """Scores are the decision function of the SVC of `mia_efficacy`, taught on members (1) and population (0).

    Positive means called a member. Comparability only: no verdict weight. In the published form members are the first
    retained examples, as many as the test set has, and the population is the test set, both seen by the audited model.
    The decision function of an RBF kernel goes back to its bias far from the taught points, so that ranks there say
    little.
    """

    holds: ClassVar[Holds] = Holds.MEMBERS | Holds.POPULATION
    weight: ClassVar[bool] = False

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        assert known.members is not None  # both checked by `holds`
        assert known.population is not None
        machine = _taught(confidence(known.members), confidence(known.population))
        return np.asarray(machine.decision_function(confidence(target)[:, None]), dtype=np.float64)


def mia_efficacy(
    forget: Float[np.ndarray, " f"], retain: Float[np.ndarray, " r"], test: Float[np.ndarray, " t"]
) -> float:
    """The "MIA efficacy" of published tables: share of the forget set that an SVC calls unseen, 1 − mean(pred on F).

    Arguments are confidences (softmax probabilities of the label) under the audited model; the first len(test) of
    retain are taught as 1, test as 0, to SVC(C=3, gamma="auto", kernel="rbf") (Jia et al. 2023, and all who took their
    evaluator over). A share in [0, 1]; tables print it in percent. Known flaws (audits.md 2.3), why it never weighs in
    a verdict:

    - it is no membership test: with sure answers on retained data it is about the share of F below a cut of
      confidence, and follows the accuracy on F;
    - larger is not better; only the distance to retrained models means anything, and that needs several of them;
    - the SVC is tuned for accuracy on a mix of halves and says nothing at low false-positive rates;
    - there are no held-out non-members: the same test examples fit the SVC and define what unseen means, and the test
      set need not be exchangeable with the forget set;
    - one model, no seeds, no interval;
    - gamma="auto" is 1 on one unscaled confidence, and most confidences crowd near 1;
    - whoever lowers the confidence on F alone improves it, which is what random labels do.
    """
    for name, part in (("forget", forget), ("retain", retain), ("test", test)):
        if not part.size:
            raise UsageError(f"mia_efficacy: needs confidences on the {name} set, got none")
    return float(1 - _taught(retain[: test.size], test).predict(forget[:, None]).mean())


def _taught(members: Float[np.ndarray, " m"], nonmembers: Float[np.ndarray, " n"]) -> Any:
    from sklearn.svm import SVC  # costs a second

    members = members[: nonmembers.size]  # the published evaluator takes so many, in the order of their rows
    taught = np.concatenate([members, nonmembers])[:, None]
    return SVC(C=3, gamma="auto", kernel="rbf").fit(taught, np.repeat([1, 0], [members.size, nonmembers.size]))


@dataclass(frozen=True)
class BasicLogistic(Attack):
    """Scores are the log-odds of a logistic regression on the clipped loss, taught on members and population.

    Positive means called a member. Comparability only: no verdict weight. The regression has one input, so that its
    ROC is that of the loss, turned over should members have the larger losses.
    """

    holds: ClassVar[Holds] = Holds.MEMBERS | Holds.POPULATION
    weight: ClassVar[bool] = False

    def run(self, target: Observation, known: Known) -> NDArray[np.float64]:
        from sklearn.linear_model import LogisticRegression

        assert known.members is not None  # both checked by `holds`
        assert known.population is not None
        parts = [_clipped_loss(part) for part in (known.members, known.population)]
        told = np.repeat([1, 0], [part.size for part in parts])
        machine = LogisticRegression().fit(np.concatenate(parts)[:, None], told)
        return np.asarray(machine.decision_function(_clipped_loss(target)[:, None]), dtype=np.float64)


def basic_mia(forget: Observation, test: Observation, *, seed: int, splits: int = 5) -> float:
    """The "basic MIA" of SCRUB's tables (Kurmanji et al. 2023): cross-validated accuracy of forget against test.

    Logistic regression on the cross-entropy clipped to ±100 nats; test examples of classes that the forget set holds;
    the larger side subsampled; `splits` stratified shuffles with a tenth held out (the NeurIPS 2023 starting kit takes
    10). 0.5 is what a model that never saw the forget set is said to give. It never weighs in a verdict: one threshold
    on the loss cannot tell easy from forgotten, the test set need not be exchangeable with the forget set, and an
    accuracy of one model has no interval. Raises UsageError where no test example has a class of the forget set, or a
    side has fewer than 10 examples.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedShuffleSplit, cross_val_score

    rng = np.random.default_rng(seed)
    sides: list[Shaped[np.ndarray, " n"]] = [_clipped_loss(forget), _clipped_loss(test)[np.isin(test.y, forget.y)]]
    size = min(side.size for side in sides)
    if size < 10:
        raise UsageError(
            "basic_mia: needs 10 forget examples and 10 test examples of their classes at least, got "
            f"{sides[0].size} and {sides[1].size}"
        )
    sides = [side if side.size == size else rng.permutation(side)[:size] for side in sides]
    shuffles = StratifiedShuffleSplit(n_splits=splits, random_state=int(rng.integers(2**31)))
    losses, told = np.concatenate(sides)[:, None], np.repeat([1, 0], size)
    return float(cross_val_score(LogisticRegression(), losses, told, cv=shuffles, scoring="accuracy").mean())


def _clipped_loss(seen: Observation) -> Float[np.ndarray, " n"]:
    """Cross-entropy, at most 100 nats."""
    return np.asarray(np.minimum(-loss(seen), _CLIP))
