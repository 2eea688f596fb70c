"""`unlearnkit ledger add | list | show | verify`, and `unlearnkit check`, which holds a model against a ledger."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from unlearnkit.audits.terminal import VERDICT_STYLE, check_file, console, example, output
from unlearnkit.result import EXIT_CODES, UsageError

if TYPE_CHECKING:
    from unlearnkit.audits.ledger.entries import Entry, What

ledger_app = typer.Typer(help="The deletion ledger: add a line, list, show, verify the chain.", no_args_is_help=True)

LedgerArgument = Annotated[Path, typer.Argument(help="The ledger.", metavar="LEDGER", show_default=False)]
HeadOption = Annotated[
    str | None,
    typer.Option(
        "--head",
        help="The head that 'ledger add' printed and you kept elsewhere: finds lines cut off the end.",
        show_default=False,
    ),
]
STATE_STYLE = {**VERDICT_STYLE, "NOT CHECKED": "dim"}


@ledger_app.command("add", epilog=example("unlearnkit ledger add deletions.jsonl audits/DR-2026-017/audit.json"))
def ledger_add(
    ledger: LedgerArgument,
    audit_path: Annotated[
        Path | None, typer.Argument(help="The result of an audit.", metavar="AUDIT.json", show_default=False)
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(help="received, unlearned, released or re-opened; an audit gives audited.", show_default=False),
    ] = None,
    deletion: Annotated[str | None, typer.Option("--id", help="The deletion's id.", show_default=False)] = None,
    forget_class: Annotated[
        int | None, typer.Option(help="The class of a request that came in.", min=0, show_default=False)
    ] = None,
    forget_ids: Annotated[
        Path | None, typer.Option(help="Or its examples, one id a line; only hashes are kept.", show_default=False)
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="The weights that were unlearned or released.", show_default=False)
    ] = None,
    day: Annotated[
        str | None,
        typer.Option(
            "--date",
            help="The day of the step, as 2026-11-21; default: today, or the day of the audit.",
            show_default=False,
        ),
    ] = None,
    note: Annotated[str, typer.Option(help="A remark.", show_default=False)] = "",
    store: Annotated[
        str | None,
        typer.Option(help="The audit's store, for its oracles; default: store beside AUDIT.json.", show_default=False),
    ] = None,
    folder: Annotated[
        Path, typer.Option(help="The folder in which the audit's spec lies: its paths start there.")
    ] = Path(),
    evidence_only: Annotated[
        bool,
        typer.Option(
            "--evidence-only",
            help="Record what the evidence alone says; without data and oracles less can be checked later.",
        ),
    ] = False,
) -> None:
    """Add one line: an audit with the statistics that a re-check needs, or another step of a deletion.

    An audit or a release that is there already is not added again, so a script may run twice.
    """
    import secrets

    from unlearnkit.audits.ledger.entries import append, read, shown

    salt = secrets.token_hex(16)
    if audit_path is None:
        entry = _step(deletion, state, forget_class, forget_ids, model, day, note, salt)
        check_file(ledger, "for the ledger")
    else:
        given = {"--id": deletion, "--state": state, "--forget-class": forget_class, "--forget-ids": forget_ids}
        for option, value in {**given, "--model": model}.items():
            if value is not None:
                raise UsageError(f"ledger add: {option} is what the audit says; leave it out, or leave AUDIT.json out")
        from unlearnkit.audits.ledger.recorded import entry_of
        from unlearnkit.audits.verify import verify_file
        from unlearnkit.store import Store

        check_file(ledger, "for the ledger")
        refused = [check.sentence for check in verify_file(audit_path).checks if not check.passed]
        if refused:
            raise UsageError(f"{audit_path}: does not say what its evidence says ({refused[0]}); audit again")
        place = store or (audit_path.parent / "store" if (audit_path.parent / "store").is_dir() else None)
        entry = entry_of(
            audit_path,
            salt=salt,
            folder=folder,
            store=None if place is None or evidence_only else Store(place),
            with_data=not evidence_only,
            day=day,
            note=note,
        )
    before = len(read(ledger).entries) if ledger.exists() else 0
    placed = append(ledger, entry)
    there = placed.number <= before
    already = f", this {'audit' if placed.audit else 'step'} is there already; nothing was added" if there else ""
    verdict = f" with verdict {placed.audit.verdict}" if placed.audit else ""
    console.print(
        f"line {placed.number}: {shown(placed.id)} {placed.state} on {placed.date}{verdict}{already}\n"
        f"head: {read(ledger).head if there else placed.hash}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    for treatment, why in (placed.reference.missing if placed.reference else {}).items():
        console.print(f"  will not be checked, {shown(treatment)}: {shown(why)}", markup=False, highlight=False)


def _step(
    deletion: str | None,
    state: str | None,
    forget_class: int | None,
    forget_ids: Path | None,
    model: Path | None,
    day: str | None,
    note: str,
    salt: str,
) -> Entry:
    """A line without an audit."""
    from unlearnkit.audits.ledger.entries import STEPS, Entry, What, hashed, today
    from unlearnkit.store import sha256_file

    steps = [step for step in STEPS if step != "audited"]
    if deletion is None or state is None:
        raise UsageError("ledger add: name an AUDIT.json, or the deletion with --id and the step with --state")
    step = next((one for one in steps if one == state), None)
    if step is None:
        raise UsageError(f"ledger add: --state must be {', '.join(steps)} (an AUDIT.json gives audited), got {state!r}")
    if forget_class is not None and forget_ids is not None:
        raise UsageError("ledger add: give --forget-class or --forget-ids, not both")
    what = None
    if forget_class is not None:
        what = What("class", forget_class, None, None, salt, ())
    elif forget_ids is not None:
        try:
            names = [line.strip() for line in forget_ids.read_text(encoding="utf-8").splitlines() if line.strip()]
        except UnicodeDecodeError as error:
            raise UsageError(f"{forget_ids}: is not text; one id a line is") from error
        what = What("examples", None, None, len(names), salt, hashed(salt, names))
    if model is not None and not model.is_file():
        raise UsageError(f"{model}: no such weights file")
    digest = None if model is None else sha256_file(model)
    return Entry(deletion, step, day or today(), what, model_sha256=digest, note=note)


@ledger_app.command("list", epilog=example("unlearnkit ledger list deletions.jsonl"))
def ledger_list(ledger: LedgerArgument) -> None:
    """Every deletion, its state, and what its last audit said."""
    from unlearnkit.audits.ledger.entries import read, shown

    table = Table()
    for column in ("deletion", "what"):
        table.add_column(column, overflow="fold")
    for column in ("state", "since", "verdict"):
        table.add_column(column, no_wrap=True)
    deletions = read(ledger).deletions()
    for one in deletions:
        audited = next((line.audit for line in reversed(one.lines) if line.audit is not None), None)
        verdict = "–" if audited is None else audited.verdict
        asked = escape(shown(_asked(one.what)))
        since = one.lines[-1].date
        table.add_row(
            escape(shown(one.id)), asked, one.state, since, f"[{VERDICT_STYLE.get(verdict, 'dim')}]{verdict}[/]"
        )
    if deletions:
        console.print(table)
    console.print(f"{len(deletions):,} deletion{'' if len(deletions) == 1 else 's'}", highlight=False)


def _asked(what: What | None) -> str:
    if what is None:
        return "–"
    count = "" if what.count is None else f"{what.count:,} "
    if what.kind == "class":
        name = what.forget_class if what.class_name is None else repr(what.class_name)
        return f"class {name}" + (f" ({count}examples)" if count else "")
    return f"{count}examples"


@ledger_app.command("show", epilog=example("unlearnkit ledger show deletions.jsonl DR-2026-017"))
def ledger_show(
    ledger: LedgerArgument,
    deletion: Annotated[str, typer.Argument(help="The deletion's id.", metavar="ID", show_default=False)],
) -> None:
    """Every line of one deletion, as JSON."""
    import json

    from unlearnkit.audits.ledger.entries import plain, read, shown
    from unlearnkit.result import nearest

    whole = read(ledger)
    one = whole.deletion(deletion)
    if one is None:
        known = [other.id for other in whole.deletions()]
        raise UsageError(f"{ledger}: knows no deletion {shown(deletion)!r}{shown(nearest(deletion, known))}")
    for entry in one.lines:  # ASCII: no character of an id reaches the terminal as a command
        console.print(json.dumps(plain(entry), indent=1), markup=False, highlight=False, soft_wrap=True)


@ledger_app.command("verify", epilog=example("unlearnkit ledger verify deletions.jsonl --head HASH"))
def ledger_verify(
    ledgers: Annotated[list[Path], typer.Argument(help="The ledgers.", metavar="LEDGER...", show_default=False)],
    head: HeadOption = None,
) -> None:
    """Hold every line against its hash and the line before; names all that is wrong.

    Exit code 1 where anything is, 2 for an empty ledger.
    """
    if head is not None and len(ledgers) > 1:
        raise UsageError(f"ledger verify: --head belongs to one ledger, got {len(ledgers)}")
    if not all([_is_whole(ledger, head) for ledger in ledgers]):
        console.print("[bold red]REFUSED[/]  this is not the ledger that was written")
        raise typer.Exit(1)


def _is_whole(path: Path, head: str | None) -> bool:
    """Tell what is wrong with a ledger, or that nothing is."""
    from unlearnkit.audits.ledger.entries import EMPTY, LOST, Ledger, in_words, parse, read_bytes, shown, since

    entries, faults = parse(read_bytes(path))
    new = None if head is None else since(entries, head)
    told = [in_words(fault) for fault in faults] or ([LOST] if head is not None and new is None else [])
    where = escape(shown(str(path)))
    for sentence in told:
        console.print(f"[red]NO[/]  {where}: {escape(sentence)}", highlight=False, soft_wrap=True)
    if told:
        return False
    if not entries:  # as `check` refuses it
        raise UsageError(f"{path}: {EMPTY}")
    lines = f"{len(entries):,} line{'' if len(entries) == 1 else 's'}"
    after = "" if new is None else f", {new:,} since the head that you kept"
    console.print(f"[bold green]WHOLE[/]  {where}: {lines}{after}", highlight=False, soft_wrap=True)
    console.print(f"head: {Ledger(entries).head}", markup=False, highlight=False, soft_wrap=True)
    return True


SHOWN = 3  # rows of one deletion in the table, besides the worst


def check(
    ledger: LedgerArgument,
    model: Annotated[Path, typer.Option(help="The weights about to ship.", show_default=False)],
    data: Annotated[
        str | None,
        typer.Option(
            help="Where the examples are (npz:PATH …, as in a spec); default: what the ledger names.",
            show_default=False,
        ),
    ] = None,
    canaries: Annotated[
        list[Path] | None, typer.Option(help="An opened canary manifest; may be repeated.", show_default=False)
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="The architecture of weights that do not name theirs.", show_default=False)
    ] = None,
    head: HeadOption = None,
    junit: Annotated[Path | None, output("Write JUnit XML.")] = None,
    summary: Annotated[Path | None, output("Write Markdown, for a CI step; it lists every failure.")] = None,
    sarif: Annotated[Path | None, output("Write SARIF, for code scanning.")] = None,
) -> None:
    """Hold the model about to ship against every audited deletion, in seconds.

    Exit code by verdict: 0 pass, 1 fail, 3 inconclusive, 4 invalid; 2 for a damaged or empty ledger.
    """
    from unlearnkit.audits.ledger import formats
    from unlearnkit.audits.ledger.check import check_files
    from unlearnkit.audits.ledger.entries import shown
    from unlearnkit.store import write_atomic

    for path, option in ((junit, "--junit"), (summary, "--summary"), (sarif, "--sarif")):
        if path is not None:
            check_file(path, f"with {option}")
    checked = check_files(ledger, model, data=data, canaries=canaries or (), architecture=architecture, head=head)
    if junit is not None:
        write_atomic(junit, formats.junit(checked).encode())
    if summary is not None:
        write_atomic(summary, formats.summary(checked).encode())
    if sarif is not None:
        write_atomic(sarif, formats.sarif(checked, ledger).encode())
    table = Table(title=f"{escape(shown(str(model)))} against {escape(shown(str(ledger)))}", title_justify="left")
    table.add_column("deletion", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("why", overflow="fold")
    for one in checked.deletions:
        style = STATE_STYLE[one.state]
        table.add_row(escape(shown(one.id)), f"[{style}]{one.state}[/]", escape(shown(one.sentence)))
        others = [row for row in one.rows if row.state != "PASS" and row.sentence not in one.sentence]
        for row in others[:SHOWN]:
            table.add_row("", f"[{STATE_STYLE[row.state]}]{row.state}[/]", escape(shown(row.sentence)))
        if others[SHOWN:]:
            table.add_row("", "", f"… and {len(others) - SHOWN} more; --summary FILE lists all")
    if checked.deletions:
        console.print(table)
    console.print(f"[{VERDICT_STYLE[checked.word]}]{checked.word}[/]  {escape(checked.sentence)}", highlight=False)
    raise typer.Exit(EXIT_CODES[checked.word])
