"""The command line: `unlearnkit demo, train, unlearn, audit, report, verify, methods, attacks`."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import unlearnkit
from unlearnkit.result import EXIT_CODES, AuditResult, UsageError

if TYPE_CHECKING:
    from unlearnkit.audits.case import Case
    from unlearnkit.audits.spec import Spec
    from unlearnkit.fleet import Job

app = typer.Typer(
    help="Did this model forget what it was asked to forget? Carry out a deletion, audit it, write the report.",
    epilog="Exit codes: 0 pass, 1 fail, 2 wrong use, 3 inconclusive, 4 invalid. Example: unlearnkit demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
console = Console()
errors = Console(stderr=True)

SpecArgument = Annotated[Path, typer.Argument(help="The TOML spec.", metavar="SPEC.toml", show_default=False)]
OutOption = Annotated[Path, typer.Option("--out", help="Folder for everything that is written.")]
StoreOption = Annotated[
    Path | None, typer.Option("--store", help="Folder of finished models; default: OUT/store.", show_default=False)
]
FreshOption = Annotated[
    bool, typer.Option("--fresh/--resume", help="Make every model anew / take finished ones from the store.")
]
TierOption = Annotated[
    str | None, typer.Option(help="seconds or minutes; overrides the spec's audit.tier.", show_default=False)
]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N; overrides the spec's audit.device.", show_default=False)
]

VERDICT_STYLE = {"PASS": "bold green", "FAIL": "bold red", "INCONCLUSIVE": "bold yellow", "INVALID": "bold magenta"}
BUG = 70  # neither a verdict nor wrong use: a fault of this program
INTERRUPTED = 130  # what shells give a command that Ctrl-C ended


def _example(command: str) -> str:
    return f"Example: [bold]{command}[/bold]"


def _version(wanted: bool) -> bool:
    if wanted:
        console.print(f"unlearnkit {unlearnkit.__version__}", highlight=False)
        raise typer.Exit
    return wanted


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_version)
    ] = False,
) -> None:
    del version  # its callback has printed it
    if debug:
        os.environ["UNLEARNKIT_DEBUG"] = "1"


@contextlib.contextmanager
def _progress(title: str) -> Iterator[Callable[[int], Callable[[Job, bool], None]]]:
    """One live bar: what was finished last, how many are left. Plain lines where the output is no terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:

        def start(total: int) -> Callable[[Job, bool], None]:
            task = bar.add_task(title, total=total)
            done = 0

            def on_done(job: Job, was_there: bool) -> None:
                nonlocal done
                done += 1
                bar.update(task, advance=1, description=f"{title}: {job.name}{' (kept)' if was_there else ''}")
                if not errors.is_terminal and (done == total or done % max(1, total // 5) == 0):
                    errors.print(f"{title}: {done} of {total} models, last {job.name}", highlight=False)

            return on_done

        yield start


def _spec(path: Path, tier: str | None, device: str | None) -> Spec:
    from unlearnkit.audits.spec import parse_overrides, read_spec

    return parse_overrides(read_spec(path), tier=tier, device=device)


@app.command(epilog=_example("unlearnkit train spec.toml --out model"))
def train(
    spec_path: SpecArgument,
    out: OutOption = Path("unlearnkit-out"),
    store: StoreOption = None,
    fresh: FreshOption = False,
    device: DeviceOption = None,
) -> None:
    """Train the original, with committed canaries if the spec plants any."""
    from unlearnkit.audits.audit import make_original
    from unlearnkit.audits.case import prepare
    from unlearnkit.fleet import read_model
    from unlearnkit.models import save_model
    from unlearnkit.store import Store

    spec = _spec(spec_path, None, device)
    if spec.model.weights is not None:
        raise UsageError("train: model.weights names a trained model; leave it out to train one")
    case = prepare(spec, sealed=out / "canaries.json")
    if case.manifest is not None:
        console.print(
            f"canaries: {len(case.heads)} planted, {len(case.tails)} held out, sealed in {out}/canaries.json",
            markup=False,
        )
        console.print(f"  commitment to publish before anybody audits: {case.manifest.commitment}", highlight=False)
    keep = Store(store or out / "store")
    with _progress("training") as start:
        key = make_original(case, keep, fresh=fresh, on_done=start(1))
    model = read_model(keep, key, case.recipe)
    save_model(out / "model.safetensors", model, case.recipe.architecture, **_planted(case))
    console.print(f"model: {out}/model.safetensors", markup=False, highlight=False)


@app.command(epilog=_example("unlearnkit unlearn spec.toml --out unlearned"))
def unlearn(
    spec_path: SpecArgument,
    out: OutOption = Path("unlearnkit-out"),
    store: StoreOption = None,
    fresh: FreshOption = False,
    device: DeviceOption = None,
) -> None:
    """Carry out the deletion with the spec's method; trains the original first where no weights are given."""
    from unlearnkit.audits.audit import make_original, method_of, unlearn_job
    from unlearnkit.audits.case import demand, prepare
    from unlearnkit.fleet import read_model, run_jobs
    from unlearnkit.models import save_model
    from unlearnkit.store import Store

    case = prepare(_spec(spec_path, None, device), sealed=out / "canaries.json")
    wanted = demand(case)
    method = method_of(case)
    if method is None:
        raise UsageError("unlearn: name the method that is to forget in [method]; 'unlearnkit methods' lists them")
    keep = Store(store or out / "store")
    with _progress("unlearning") as start:
        on_done = start(2)
        original = make_original(case, keep, fresh=fresh, on_done=on_done)
        job = unlearn_job(case, wanted, original, method)
        key = run_jobs([job], case.train, keep, device=case.spec.audit.device, fresh=fresh, on_done=on_done)[0]
    save_model(
        out / "unlearned.safetensors",
        read_model(keep, key, case.recipe),
        case.recipe.architecture,
        method=method.name,
        deletion=wanted.deletion.id,
        **_planted(case),
    )
    seconds = keep.record(key).get("seconds")
    took = "" if seconds is None else f" in {seconds:.1f} s"
    console.print(
        f"{method.name} forgot {wanted.forget.size:,} of {case.trained.size:,} examples{took} and saw "
        f"{', '.join(method.needs.names())}; model: {out}/unlearned.safetensors",
        highlight=False,
    )


@app.command(epilog=_example("unlearnkit audit spec.toml --out audit --tier minutes"))
def audit(
    spec_path: SpecArgument,
    out: OutOption = Path("unlearnkit-out"),
    tier: TierOption = None,
    store: StoreOption = None,
    fresh: FreshOption = False,
    device: DeviceOption = None,
) -> None:
    """Train, unlearn, retrain, attack, judge; writes audit.json, its evidence and report.pdf. Exit code by verdict."""
    from unlearnkit.audits.audit import audit as run_audit
    from unlearnkit.audits.case import prepare
    from unlearnkit.store import Store

    spec = _spec(spec_path, tier, device)
    _check_writable(out)
    case = prepare(spec, sealed=out / "canaries.json")
    with _progress("audit") as start:
        result, sidecar = run_audit(
            spec,
            Store(store or out / "store"),
            command=_command(),
            fresh=fresh,
            on_done=start(_models_needed(spec)),
            case=case,
        )
    _finish(out, result, sidecar)
    raise typer.Exit(EXIT_CODES[result.verdict.word])


def _planted(case: Case) -> dict[str, str]:
    """Metadata by which a model's file is known to hold canaries."""
    return {} if case.manifest is None else {"canaries": case.manifest.commitment}


def _models_needed(spec: Spec) -> int:
    oracles = 0 if spec.audit.tier == "seconds" else spec.audit.oracles + 1
    ours = spec.audit.unlearned is None and spec.method is not None and spec.method.name != "none"
    return oracles + (spec.model.weights is None) + ours


def _finish(out: Path, result: AuditResult, sidecar: bytes) -> Path:
    from unlearnkit.audits.audit import save_audit
    from unlearnkit.reports.pdf import write_report

    path = save_audit(out, result, sidecar)
    report = out / "report.pdf"
    write_report(path, report)
    _show(result)
    console.print(f"result: {path}\nreport: {report}", markup=False, highlight=False, soft_wrap=True)
    return report


def _show(result: AuditResult) -> None:
    """The table at the end."""
    from unlearnkit.audits.words import number

    table = Table(title=f"{result.request.id}: {result.request.sentence}", title_justify="left")
    table.add_column("test")
    table.add_column("leak (95 % interval)")
    for column in ("tolerance", "MDE", "p"):
        table.add_column(column, justify="right")
    table.add_column("state", no_wrap=True)
    for test in result.tests:
        low, high = test.leak.low, test.leak.high
        limits = "no interval" if low is None or high is None else f"{number(low)} to {number(high)}"
        table.add_row(
            test.name,
            f"{number(test.leak.value)} {test.unit} ({limits})",
            f"±{number(test.tolerance)}",
            "–" if test.mde is None else number(test.mde),
            number(test.p_adjusted),
            "BELOW TOLERANCE" if test.state == "LEAK_BELOW_TOLERANCE" else test.state,
        )
    console.print(table)
    style = VERDICT_STYLE[result.verdict.word]
    console.print(f"[{style}]{result.verdict.word}[/]  {escape(result.verdict.headline)}")


def _command() -> str:
    """The command as it was typed, with the program's plain name."""
    return shlex.join(["unlearnkit", *sys.argv[1:]])


def _check_writable(out: Path) -> None:
    """A folder that cannot be written to shows now, and not after an hour of training."""
    from unlearnkit.store import write_atomic

    probe = out / ".writable"
    write_atomic(probe, b"")
    probe.unlink()


@app.command(epilog=_example("unlearnkit report audit.json -o report.pdf"))
def report(
    result: Annotated[Path, typer.Argument(help="The result file.", metavar="AUDIT.json", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "--out", "-o", help="The PDF to write.")] = Path("report.pdf"),
) -> None:
    """Typeset the PDF from a result file and its evidence; the same file gives the same bytes."""
    from unlearnkit.reports.pdf import write_report

    write_report(result, output)
    console.print(f"report: {output}", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog=_example("unlearnkit verify report.pdf"))
def verify(
    file: Annotated[Path, typer.Argument(help="A report or a result file.", show_default=False)],
) -> None:
    """Compute the verdict again from the evidence and check every hash. Exit code 1 when the file is refused."""
    from unlearnkit.audits.verify import verify_file

    checked = verify_file(file)
    for check in checked.checks:
        console.print(f"{'[green]ok[/]' if check.passed else '[red]NO[/]'}  {check.name}: {escape(check.sentence)}")
    word = checked.result.verdict.word
    if not checked.passed:
        console.print("[bold red]REFUSED[/]  this file does not say what its evidence says")
        raise typer.Exit(1)
    console.print(f"[bold green]VERIFIED[/]  the verdict {word} follows from the evidence")
    console.print(
        "Not checked, since no signature says who wrote this: the request, the method and the model file are taken as "
        "stated. Compare the model's sha256 with the file that is shipped.",
        highlight=False,
    )


@app.command(epilog=_example("unlearnkit methods"))
def methods() -> None:
    """What methods there are, what each must see, and its hyperparameters."""
    from unlearnkit.methods import METHODS

    _list("method", "must see", {method: _needs(method.needs.names()) for method in METHODS.values()})


@app.command(epilog=_example("unlearnkit attacks"))
def attacks() -> None:
    """What attacks there are, and how many reference models each needs."""
    from unlearnkit.attacks import ATTACKS

    _list("attack", "references", {attack: str(attack.min_references) for attack in ATTACKS.values()})


def _list(kind: str, third: str, things: dict[type, str]) -> None:
    """A table of dataclasses: name, first line of the file, what `third` says, fields with their defaults."""
    table = Table()
    for column in (kind, "what it does", third, "parameters"):
        table.add_column(column)
    for thing, said in things.items():
        fields = ", ".join(f"{f.name}={f.default}" for f in dataclasses.fields(thing))
        table.add_row(thing.__name__, _first_line(thing), said, fields or "none")
    console.print(table)


def _first_line(thing: type) -> str:
    line = (sys.modules[thing.__module__].__doc__ or "").strip().splitlines()[0]
    return line.removeprefix(f"{thing.__name__}: ").removesuffix(".")


def _needs(names: tuple[str, ...]) -> str:
    """`forget_inputs, forget_labels` -> `forget with labels`."""
    words = []
    for name in names:
        part, _, what = name.partition("_")
        if what == "labels":
            continue
        words.append(
            f"{part} {'with' if f'{part}_labels' in names else 'without'} labels" if what == "inputs" else name
        )
    return ", ".join(words)


@app.command(epilog=_example("unlearnkit demo --out unlearnkit-demo"))
def demo(
    out: OutOption = Path("unlearnkit-demo"),
    fresh: FreshOption = False,
) -> None:
    """The whole way on the embedded digits: two deletions, six audits, six reports. About a minute on two cores."""
    from unlearnkit.audits.demo import run_demo

    _check_writable(out)
    with _progress("demo") as start:
        told = run_demo(out, fresh=fresh, start=start)
    table = Table(title="Six audits on scikit-learn's digits", title_justify="left")
    for column in ("asked", "done", "verdict", "why", "report"):
        table.add_column(column, overflow="fold")
    for audited in told:
        verdict = audited.result.verdict
        table.add_row(
            audited.asked,
            audited.done,
            f"[{VERDICT_STYLE[verdict.word]}]{verdict.word}[/]",
            verdict.headline,
            str(audited.report),
        )
    console.print(table)
    console.print(f"Begin with {told[0].report}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"check it: unlearnkit verify {told[0].report}", markup=False, highlight=False, soft_wrap=True)
    unexpected = [a for a in told if a.result.verdict.word != a.expected]
    for audited in unexpected:
        errors.print(f"demo: {audited.asked}, {audited.done}: expected {audited.expected}, see {audited.report}")
    raise typer.Exit(1 if unexpected else 0)


def main() -> None:
    """Run the command line: every mistake a user can make ends in one sentence and exit code 2."""
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        code = _refuse(str(error))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "free some space, then run again" if full else "check the path, or name another folder with --out"
        where = f"{error.filename}: " if error.filename else ""
        code = _refuse(f"{where}{(error.strerror or str(error)).lower()}; {remedy}; finished models are kept")
    except Exception as error:  # noqa: BLE001 - the last resort: shown in full, under a code of its own
        # Click's own errors (unknown option, missing argument) carry their sentence; all else is our bug: show it.
        if hasattr(error, "format_message"):
            code = _refuse(error.format_message() or "name a command; unlearnkit --help lists them")
        else:
            traceback.print_exc()
            code = BUG
    if code == INTERRUPTED:  # by Typer too, which turns Ctrl-C into this code
        _refuse("interrupted; finished models are kept, run the same command again to go on")
    sys.exit(code or 0)


def _refuse(sentence: str) -> int:
    if os.environ.get("UNLEARNKIT_DEBUG") and sys.exc_info()[0] is not None:
        traceback.print_exc()
    errors.print(f"unlearnkit: {sentence}", markup=False, highlight=False, soft_wrap=True)
    return 2


if __name__ == "__main__":
    main()
