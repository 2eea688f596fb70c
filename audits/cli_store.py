"""`unlearnkit store ls | gc | verify`: what a store keeps."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from unlearnkit.audits.terminal import console, example

if TYPE_CHECKING:
    from unlearnkit.store import Fault

store_app = typer.Typer(help="What a store keeps: list it, clean it up, check every byte.", no_args_is_help=True)

StoreArgument = Annotated[str, typer.Argument(help="A folder, or a URL (s3://…).", metavar="STORE", show_default=False)]


@store_app.command("ls", epilog=example("unlearnkit store ls unlearnkit-out/store"))
def store_ls(store: StoreArgument) -> None:
    """What is kept, the largest first. Where a bucket does not tell when it was read, last used means made."""
    from unlearnkit.store import Store

    entries = Store(store).entries()
    table = Table()
    for column in ("key", "kind"):
        table.add_column(column, no_wrap=True)
    table.add_column("name", overflow="fold")
    for column in ("size", "made in", "last used"):
        table.add_column(column, justify="right", no_wrap=True)
    now = time.time()
    for entry in entries:
        made = "?" if entry.seconds is None else f"{entry.seconds:,.1f} s"
        age = _age(now - entry.used)
        table.add_row(entry.key[:12], escape(entry.kind), escape(entry.name), decimal(entry.bytes), made, age)
    if entries:
        console.print(table)
    console.print(_results(len(entries), sum(entry.bytes for entry in entries)), highlight=False)


def _age(seconds: float) -> str:
    """`3 days ago`, in the largest unit that leaves a whole number."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            number = int(seconds // length)
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"


def _results(count: int, size: int) -> str:
    return f"{count:,} result{'' if count == 1 else 's'}, {decimal(size)}"


def _show_faults(faults: Sequence[Fault]) -> None:
    for fault in faults:
        console.print(f"{fault.path}: {fault.reason}", markup=False, highlight=False, soft_wrap=True)


@store_app.command("gc", epilog=example("unlearnkit store gc unlearnkit-out/store --unused-for 30 --dry-run"))
def store_gc(
    store: StoreArgument,
    unused_for: Annotated[
        float | None,
        typer.Option(help="Also results that nobody has read for so many days.", min=0, show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
) -> None:
    """Delete what is damaged or left over from interrupted writes and, on request, what nobody uses."""
    from unlearnkit.store import Store

    gone = Store(store).collect(unused_for=unused_for, dry_run=dry_run)
    _show_faults(gone)
    done = "would be deleted" if dry_run else "deleted"
    files = f"{len(gone):,} file{'' if len(gone) == 1 else 's'}"
    console.print(f"{done}: {files}, {decimal(sum(fault.bytes for fault in gone))}", highlight=False)


@store_app.command("verify", epilog=example("unlearnkit store verify unlearnkit-out/store"))
def store_verify(store: StoreArgument) -> None:
    """Hold every result against its hash and its key. Exit code 1 when something is damaged."""
    from unlearnkit.store import Store

    kept = Store(store)
    faults = kept.faults()
    _show_faults(faults)
    if faults:
        files = "1 file is" if len(faults) == 1 else f"{len(faults):,} files are"
        advice = shlex.join(["unlearnkit", "store", "gc", store])
        console.print(
            f"[bold red]DAMAGED[/]  {files} no part of a whole result; delete with: {escape(advice)}, and run again",
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)
    entries = kept.entries()
    total = _results(len(entries), sum(entry.bytes for entry in entries))
    console.print(f"[bold green]WHOLE[/]  {total}" if entries else "[bold]EMPTY[/]  no result so far", highlight=False)
