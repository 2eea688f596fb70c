"""The pytest plugin: one test per deletion of a ledger, and `assert_forgotten` for tests of one's own.

    pytest --unlearnkit-ledger=deletions.jsonl --unlearnkit-model=model.safetensors

Each option has a twin in the ini file (`unlearnkit_ledger = deletions.jsonl`). Where nothing is asked, nothing happens,
and nothing heavy is imported: torch comes with the first test that runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from torch import nn

    from unlearnkit.audits.designs import Tolerances
    from unlearnkit.audits.ledger.check import Check, Checked, Row
    from unlearnkit.types import Splits

__all__ = ["assert_forgotten"]

MARKER = "unlearnkit: holds a model against a deletion; collected from --unlearnkit-ledger, or set by hand"
_OPTIONS = {
    "ledger": "The deletion ledger: one test is collected for each of its deletions.",
    "model": "The weights about to ship.",
    "data": "Where the examples are, as in a spec (npz:PATH …); default: what the ledger names.",
    "head": "The head of the ledger that was kept elsewhere: finds lines that were cut off its end.",
    "canaries": "Opened canary manifests, separated by commas.",
    "inconclusive": "What a check that does not decide does: fail (the default) or skip.",
}
_SHOWN = 5  # rows of an assertion message


def pytest_addoption(parser: pytest.Parser) -> None:
    """The options, and their twins in the ini file."""
    group = parser.getgroup("unlearnkit", "unlearnkit: is everything once forgotten still forgotten?")
    for name, told in _OPTIONS.items():
        group.addoption(f"--unlearnkit-{name}", default=None, help=told)
        parser.addini(f"unlearnkit_{name}", told, default=None)


def pytest_configure(config: pytest.Config) -> None:
    """The marker, also under --strict-markers."""
    config.addinivalue_line("markers", MARKER)


def _asked(config: pytest.Config, name: str) -> str | None:
    """What the command line says, else the ini file."""
    given = config.getoption(f"--unlearnkit-{name}")
    return given if given is not None else (config.getini(f"unlearnkit_{name}") or None)


def _folder(config: pytest.Config, name: str) -> Path:
    """Where a path starts: on the command line where pytest was called, in the ini file where that lies."""
    if config.getoption(f"--unlearnkit-{name}") is not None:
        return config.invocation_params.dir
    return config.inipath.parent if config.inipath else config.rootpath


def _data(config: pytest.Config) -> str | None:
    """Where the examples are; the path of `npz:` or `folder:` starts where every path does."""
    said = _asked(config, "data")
    kind, _, path = (said or "").partition(":")
    return f"{kind}:{_folder(config, 'data') / Path(path).expanduser()}" if kind in ("npz", "folder") and path else said


def _path(config: pytest.Config, name: str) -> Path | None:
    said = _asked(config, name)
    return None if said is None else _folder(config, name) / said


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Add one test for each deletion."""
    path = _path(config, "ledger")
    if path is None:
        return
    if _path(config, "model") is None:
        raise pytest.UsageError("--unlearnkit-ledger needs --unlearnkit-model: name the weights that are about to ship")
    if _asked(config, "inconclusive") not in (None, "fail", "skip"):
        raise pytest.UsageError(
            f"--unlearnkit-inconclusive must be fail or skip, got {_asked(config, 'inconclusive')!r}"
        )
    node: LedgerFile = LedgerFile.from_parent(session, path=path.absolute())
    items.extend(node.collect())


class LedgerFile(pytest.File):
    """A ledger as a file of tests."""

    def collect(self) -> Iterator[DeletionItem]:
        """One test for each deletion, in the order of the ledger."""
        from unlearnkit.audits.ledger.entries import read_to_check, shown
        from unlearnkit.result import UsageError

        try:
            deletions = read_to_check(self.path, head=_asked(self.config, "head")).deletions()
        except UsageError as error:
            raise pytest.UsageError(str(error)) from error
        for one in deletions:
            item: DeletionItem = DeletionItem.from_parent(
                self, name=shown(one.id), deletion=one.id, line=one.lines[-1].number
            )
            item.add_marker("unlearnkit")
            yield item


class NotForgotten(AssertionError):
    """A deletion that does not hold for the model at hand; the message says what was seen."""


class DeletionItem(pytest.Item):
    """One deletion: passes where nothing stands out."""

    def __init__(self, *, deletion: str, line: int, **rest: Any) -> None:
        super().__init__(**rest)
        self.deletion, self.line = deletion, line

    def runtest(self) -> None:
        """Hold the model against the ledger, once for all deletions, and take what it says of this one."""
        check = _check(self.config)
        one = next(each for each in check.deletions if each.id == self.deletion)
        for name, value in _figures(one):
            self.user_properties.append((name, value))
        _judge(one, model=check.model, skip=_asked(self.config, "inconclusive") == "skip")

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """The message by itself: the lines of this file help nobody."""
        from unlearnkit.result import UsageError

        if isinstance(excinfo.value, NotForgotten | UsageError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int, str]:
        """Where to look: the line of the ledger."""
        return self.path, self.line - 1, f"unlearnkit: {self.name}"


_CHECK: pytest.StashKey[Check] = pytest.StashKey()


def _check(config: pytest.Config) -> Check:
    """The whole check, made once in each process: its corrections count every deletion, whichever tests are chosen."""
    if _CHECK not in config.stash:
        from unlearnkit.audits.ledger.check import check_files

        ledger, model = _path(config, "ledger"), _path(config, "model")
        if ledger is None or model is None:
            pytest.skip("no --unlearnkit-ledger and --unlearnkit-model were given")
        names = (_asked(config, "canaries") or "").split(",")
        manifests = [_folder(config, "canaries") / name for name in names if name]
        config.stash[_CHECK] = check_files(
            ledger, model, data=_data(config), canaries=manifests, head=_asked(config, "head")
        )
    return config.stash[_CHECK]


def _judge(one: Checked, *, model: str, skip: bool) -> None:
    """Pass, skip or raise, by the state of a deletion."""
    if one.state == "PASS":
        return
    if one.state == "NOT CHECKED" or (one.state == "INCONCLUSIVE" and skip):
        pytest.skip(f"{one.state}: {one.sentence}")
    raise NotForgotten(message(one, model=model))


def message(one: Checked, *, model: str) -> str:
    """What a developer reads when a deletion does not hold."""
    from unlearnkit.audits.ledger.entries import shown

    head = {
        "FAIL": f"{shown(model)} does not keep the deletion {shown(one.id)!r}.",
        "INCONCLUSIVE": f"Whether {shown(model)} keeps the deletion {shown(one.id)!r} is not decided.",
        "INVALID": f"{shown(model)} cannot be held against the deletion {shown(one.id)!r}.",
    }[one.state]
    told = [row for row in one.rows if row.state != "PASS"]
    lines = [head, *(f"  {row.state}: {shown(row.sentence)}{_why(row)}" for row in told[:_SHOWN])]
    if not told:
        lines.append(f"  {shown(one.sentence)}")
    if told[_SHOWN:]:
        lines.append(f"  … and {len(told) - _SHOWN} more")
    if one.state == "FAIL":
        lines.append("Unlearn again and audit the result, or do not ship this model.")
    return "\n".join(lines)


def _why(row: Row) -> str:
    return "" if row.p_adjusted is None else f" (p = {row.p_adjusted:.2g}, {row.decided_by})"


def _figures(one: Checked) -> list[tuple[str, object]]:
    """Figures for `record_property`: the state, and each number with its p."""
    figures: list[tuple[str, object]] = [("unlearnkit.state", one.state)]
    for row in one.rows:
        if row.value is not None and row.p_adjusted is not None:
            name = f"unlearnkit.{row.treatment}.{row.group}.{row.statistic}"
            figures += [(name, f"{row.value:.6g}"), (f"{name}.p", f"{row.p_adjusted:.3g}")]
    return figures


@pytest.fixture(scope="session")
def unlearnkit_check(pytestconfig: pytest.Config) -> Check:
    """What the model of --unlearnkit-model says to the ledger of --unlearnkit-ledger; skips where none is given."""
    return _check(pytestconfig)


def assert_forgotten(
    model: nn.Module,
    splits: Splits,
    *,
    oracles: Sequence[nn.Module],
    original: nn.Module | None = None,
    tolerances: Tolerances | None = None,
    significance: float = 0.05,
    treatments: Sequence[str] | None = None,
    record_property: Callable[[str, object], None] | None = None,
) -> None:
    """Assert that a model treats the forget set as models retrained without it do; the message says where it does not.

    oracles: retrained models, at least 2; 19 decide by exact ranks. original: the model before the deletion; with it, a
    check that would not notice that one fails, as blind. treatments: `as shipped`, `8 bits`, `4 bits`, `30 % pruned`;
    left out, all of them. record_property: pytest's fixture, to keep the figures.
    """
    from unlearnkit.audits.ledger.check import compare
    from unlearnkit.audits.ledger.rechecks import RECHECKS

    one = compare(
        model,
        splits,
        oracles,
        original=original,
        tolerances=tolerances,
        significance=significance,
        treatments=tuple(RECHECKS) if treatments is None else treatments,
        name="forget set",
    )
    if record_property is not None:
        for name, value in _figures(one):
            record_property(name, value)
    _judge(one, model="the model", skip=False)
