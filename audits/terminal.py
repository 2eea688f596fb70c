"""What every part of the command line shares: consoles, colors of verdicts, examples, and where output may go."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from unlearnkit.result import UsageError

console = Console()
errors = Console(stderr=True)

VERDICT_STYLE = {
    "PASS": "bold green",
    "CONSISTENT": "bold blue",
    "FAIL": "bold red",
    "INCONCLUSIVE": "bold yellow",
    "INVALID": "bold magenta",
}


def example(command: str) -> str:
    """The last line of a command's help."""
    return f"Example: [bold]{command}[/bold]"


def output(told: str, *names: str, show_default: bool = False) -> Any:
    """An option that names what is written; an empty name (a variable that was never set) is refused."""
    return typer.Option(*names, help=told, parser=_named, metavar="<path>", show_default=show_default)


def _named(text: str | Path) -> Path:  # a default is a path already
    if not str(text):
        raise typer.BadParameter("needs a name, got ''")
    return Path(text)


def check_folder(folder: Path, named: str = "with --out") -> None:
    """Make a folder for output and write to it: what would fail after an hour of training fails now, in a sentence.

    named: how a user names another place, at the end of that sentence.
    """
    try:
        blocked = next((part for part in (folder, *folder.parents) if part.exists() and not part.is_dir()), None)
        if blocked is not None:
            which = "" if blocked == folder else f"{blocked} "
            raise UsageError(f"{folder}: {which}is a file, and a folder is needed; name another place {named}")
        folder.mkdir(parents=True, exist_ok=True)
        probe, name = tempfile.mkstemp(prefix=".writable-", dir=folder)  # a name of its own: others may check as well
        os.close(probe)
        Path(name).unlink(missing_ok=True)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UsageError(f"{folder}: nothing can be written there ({why}); name another place {named}") from error


def check_file(path: Path, named: str) -> None:
    """Whether a file can be written under this name; its folder is made."""
    if path.is_dir():
        raise UsageError(f"{path}: is a folder, and a file is needed; name another place {named}")
    check_folder(path.parent, named)
