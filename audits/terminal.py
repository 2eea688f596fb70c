"""What every part of the command line shares: the two consoles, the colors of verdicts, how examples are shown."""

from __future__ import annotations

from rich.console import Console

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
