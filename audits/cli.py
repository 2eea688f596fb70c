"""The command line: `unlearnkit demo, train, unlearn, audit, worst-case, report, sign, verify, check, …`."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

import unlearnkit
from unlearnkit.audits.cli_ledger import check, ledger_app
from unlearnkit.audits.cli_store import store_app
from unlearnkit.audits.terminal import VERDICT_STYLE, check_file, check_folder, console, errors, example, output
from unlearnkit.result import EXIT_CODES, AuditResult, Changed, UsageError

if TYPE_CHECKING:
    from unlearnkit.audits.spec import Spec
    from unlearnkit.audits.worst_case.gaps import Instruments
    from unlearnkit.fleet import Progress as FleetProgress
    from unlearnkit.fleet import Watch
    from unlearnkit.hardest import WorstCase
    from unlearnkit.reports.letterhead import Letterhead
    from unlearnkit.store import Store

app = typer.Typer(
    help="Did this model forget what it was asked to forget? Carry out a deletion, audit it, write the report.",
    epilog="Exit codes: 0 pass or consistent, 1 fail or refused, 2 wrong use, 3 inconclusive, 4 invalid. "
    "Example: unlearnkit demo",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(store_app, name="store", epilog=example("unlearnkit store ls unlearnkit-out/store"))
app.add_typer(ledger_app, name="ledger", epilog=example("unlearnkit ledger list deletions.jsonl"))

SpecArgument = Annotated[Path, typer.Argument(help="The TOML spec.", metavar="SPEC.toml", show_default=False)]
OutOption = Annotated[Path, output("Folder for everything that is written.", "--out", show_default=True)]
FILE = ("--output", "--out", "-o")  # the names of an option for one file
StoreOption = Annotated[
    str | None,
    typer.Option(
        "--store",
        help="Where finished models are kept: a folder or a URL (s3://…); default: OUT/store.",
        show_default=False,
    ),
]
FreshOption = Annotated[
    bool, typer.Option("--fresh/--resume", help="Make every model anew / take finished ones from the store.")
]
TierOption = Annotated[
    str | None, typer.Option(help="seconds, minutes or hours; overrides the spec's audit.tier.", show_default=False)
]
EngineOption = Annotated[str, typer.Option(help="local (processes on this machine) or ray (a cluster).")]
DeviceOption = Annotated[
    str | None, typer.Option(help="cpu, cuda or cuda:N; overrides the spec's audit.device.", show_default=False)
]

MANY = 10  # jobs that are worth lines of their own where there is no terminal
BUG = 70  # neither a verdict nor wrong use: a fault of this program
INTERRUPTED = 130  # what shells give a command that Ctrl-C ended


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


class Interrupted(Exception):
    """Ctrl-C while a fleet was at work, which had finished so many results."""

    def __init__(self, made: int) -> None:
        super().__init__()
        self.made = made


@contextlib.contextmanager
def _progress(title: str) -> Iterator[Watch]:
    """One live view of the fleet: what runs, how much is done, what is left. Plain lines where there is no terminal."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns, console=errors, transient=True, disable=not errors.is_terminal) as bar:
        task = bar.add_task(title, total=None, left="")
        told, total, step = -1, 0, ""
        made, before = 0, 0  # results of this stretch and of those before it, without what was there already

        def watch(fleet: FleetProgress) -> None:
            nonlocal told, total, step, made, before
            if (fleet.total, fleet.step) != (total, step) and fleet.total - fleet.kept >= MANY:
                told = -1  # another long stretch
            total, step = fleet.total, fleet.step
            now = fleet.done - fleet.kept - fleet.failed
            before, made = (before + made if now < made else before), now
            named = f"{title}, {step}" if step else title
            left = _left(fleet)
            running = ", ".join(fleet.running[:2]) + (
                f" and {len(fleet.running) - 2} more" if fleet.running[2:] else ""
            )
            failed = f" [red]{fleet.failed} failed[/]" if fleet.failed else ""
            bar.update(
                task,
                total=fleet.total,
                completed=fleet.done,
                description=f"{named}: {escape(running)}{failed}" if running else f"{named}{failed}",
                left=left,
            )
            tenth = 10 * fleet.done // max(1, fleet.total)
            if not errors.is_terminal and tenth > told:
                told = tenth
                kept = f", {fleet.kept} kept" if fleet.kept else ""
                failures = f", {fleet.failed} failed" if fleet.failed else ""
                errors.print(
                    f"{named}: {fleet.done} of {fleet.total}{kept}{failures}{', ' + left if left else ''}",
                    highlight=False,
                )

        try:
            yield watch
        except KeyboardInterrupt:
            raise Interrupted(before + made) from None


def _left(fleet: FleetProgress) -> str:
    """Rate and remaining time, once there is a rate."""
    if fleet.remaining is None or fleet.done == fleet.total:
        return ""
    rate = (fleet.done - fleet.kept) / fleet.seconds
    pace = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
    minutes, seconds = divmod(round(fleet.remaining), 60)
    return f"{pace}, {f'{minutes} min ' if minutes else ''}{seconds} s left"


def _spec(path: Path, tier: str | None, device: str | None) -> Spec:
    from unlearnkit.audits.spec import parse_overrides, read_spec

    return parse_overrides(read_spec(path), tier=tier, device=device)


@app.command(epilog=example("unlearnkit train spec.toml --out model"))
def train(
    spec_path: SpecArgument,
    out: OutOption = Path("unlearnkit-out"),
    store: StoreOption = None,
    fresh: FreshOption = False,
    device: DeviceOption = None,
    engine: EngineOption = "local",
) -> None:
    """Train the original, with committed canaries if the spec plants any; writes model.safetensors."""
    from unlearnkit.audits.audit import fleet_for
    from unlearnkit.audits.case import prepare
    from unlearnkit.models import save_model

    spec = _spec(spec_path, None, device)
    if spec.model.weights is not None:
        raise UsageError("train: model.weights names a trained model; leave it out to train one")
    check_folder(out)
    case = prepare(spec, sealed=out / "canaries.json")
    if case.manifest is not None:
        console.print(
            f"canaries: {len(case.heads)} planted, {len(case.tails)} held out, sealed in {out}/canaries.json",
            markup=False,
        )
        console.print(f"  commitment to publish before anybody audits: {case.manifest.commitment}", highlight=False)
    with _progress("training") as watch:
        fleet = fleet_for(case, _store(store, out), engine=engine, fresh=fresh, watch=watch)
        fleet.run([case.original])
    model = fleet.read(case.original)
    save_model(out / "model.safetensors", model, case.recipe.architecture, **case.origin)
    console.print(f"model: {out}/model.safetensors", markup=False, highlight=False)


@app.command(epilog=example("unlearnkit unlearn spec.toml --out unlearned"))
def unlearn(
    spec_path: SpecArgument,
    out: OutOption = Path("unlearnkit-out"),
    store: StoreOption = None,
    fresh: FreshOption = False,
    device: DeviceOption = None,
    engine: EngineOption = "local",
) -> None:
    """Carry out the deletion with the spec's method; writes unlearned.safetensors.

    The original is trained first where the spec names no weights.
    """
    from unlearnkit.audits.audit import fleet_for
    from unlearnkit.audits.case import demand, method_of, prepare
    from unlearnkit.audits.subjects import original_job, unlearn_job
    from unlearnkit.editing import class_accuracy, has_seam
    from unlearnkit.models import load_model, save_model

    spec = _spec(spec_path, None, device)
    check_folder(out)
    case = prepare(spec, sealed=out / "canaries.json")
    wanted = demand(case)
    method = method_of(case)
    if method is None:
        raise UsageError("unlearn: name the method that is to forget in [method]; 'unlearnkit methods' lists them")
    keep = _store(store, out)
    job = unlearn_job(case, wanted, original_job(case, keep), method)
    with _progress("unlearning") as watch:
        fleet = fleet_for(case, keep, engine=engine, fresh=fresh, watch=watch)
        key = fleet.run([job])[0]
    save_model(
        out / "unlearned.safetensors",
        fleet.read(job),
        case.recipe.architecture,
        method=method.name,
        deletion=wanted.deletion.id,
        **case.origin,
    )
    seconds = keep.record(key).get("seconds")
    took = "" if seconds is None else f" in {seconds:.1f} s"
    console.print(
        f"{method.name} forgot {wanted.forget.size:,} of {case.trained.size:,} examples{took} and saw "
        f"{', '.join(method.needs.names())}; model: {out}/unlearned.safetensors",
        highlight=False,
    )
    if wanted.deletion.forget_class is not None:
        model = load_model(out / "unlearned.safetensors", case.recipe.architecture)
        if has_seam(model):
            known = class_accuracy(
                model, case.train.take(case.trained), case.dataset.test, label=wanted.deletion.forget_class
            )
            console.print(
                f"Of held-out examples of class {wanted.deletion.forget_class} the head still tells {known.head:.0%}, "
                f"the nearest class mean among the features {known.nearest_mean:.0%}.",
                highlight=False,
            )


@app.command(epilog=example("unlearnkit audit spec.toml --out audit --tier minutes"))
def audit(
    spec_path: SpecArgument,
    out: OutOption = Path("unlearnkit-out"),
    tier: TierOption = None,
    store: StoreOption = None,
    fresh: FreshOption = False,
    device: DeviceOption = None,
    engine: EngineOption = "local",
) -> None:
    """Train, unlearn, retrain, attack, judge; writes audit.json, its evidence and report.pdf.

    Exit code by verdict: 0 pass or consistent, 1 fail, 3 inconclusive, 4 invalid.
    """
    from unlearnkit.audits.audit import audit as run_audit
    from unlearnkit.audits.audit import fleet_for
    from unlearnkit.audits.case import prepare

    spec = _spec(spec_path, tier, device)
    letterhead = _letterhead(spec)
    check_folder(out)
    case = prepare(spec, sealed=out / "canaries.json")
    with _progress("audit") as watch:
        fleet = fleet_for(case, _store(store, out), engine=engine, fresh=fresh, watch=watch)
        result, sidecar = run_audit(spec, fleet, command=_command(), case=case, say=_say_cost)
    _finish(out, result, sidecar, letterhead)
    raise typer.Exit(EXIT_CODES[result.verdict.word])


@app.command("worst-case", epilog=example("unlearnkit worst-case spec.toml --out worst-case"))
def worst_case(
    spec_path: SpecArgument,
    out: OutOption = Path("unlearnkit-out"),
    store: StoreOption = None,
    fresh: FreshOption = False,
    device: DeviceOption = None,
    engine: EngineOption = "local",
) -> None:
    """Search the forget set that is hardest to forget, audit methods on it, and hold it against random sets.

    Writes worst_case.json, forget.txt (the set, for deletion.forget_ids) and worst_case.pdf, whose first sentence says
    whether the set is harder than random ones. What is searched, and how, stands in \\[worst_case] of the spec; the
    README lists its keys ("You ship models, and what was forgotten must stay forgotten").
    """
    from unlearnkit.attacks import ATTACKS
    from unlearnkit.audits.audit import fleet_for
    from unlearnkit.audits.case import prepare
    from unlearnkit.audits.worst_case.search import plan, save_worst_case
    from unlearnkit.audits.worst_case.search import worst_case as find
    from unlearnkit.audits.worst_case.standing import NO_WORST_CASE
    from unlearnkit.hardest import IDS
    from unlearnkit.reports.worst_case import write_page

    spec = _spec(spec_path, None, device)
    check_folder(out)
    case = prepare(spec)
    with _progress("worst case") as watch:
        fleet = fleet_for(case, _store(store, out), engine=engine, fresh=fresh, watch=watch)
        work = plan(case, fleet, ATTACKS)
        for said in work.cost:
            _say_cost(said)
        result, evidence = find(work, instruments=_instruments(), command=_command())
    path = save_worst_case(out, result, evidence)
    write_page(path, out / "worst_case.pdf")
    _show_worst_case(result)
    refuted = any(flag.name == NO_WORST_CASE and flag.sentence.startswith(IDS) for flag in result.flags)
    hard = " (no worst case: see above)" if refuted else ""
    console.print(
        f"result: {path}\nforget set: {out / IDS}{hard}\npage: {out / 'worst_case.pdf'}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


def _say_cost(said: str) -> None:
    console.print(f"cost: {said}", markup=False, highlight=False, soft_wrap=True)


def _instruments() -> Instruments:
    """What the certificate measures beside accuracies and margins: RMIA, and the score that publications count."""
    from unlearnkit.attacks import RMIAOffline
    from unlearnkit.attacks.mia_efficacy import mia_efficacy
    from unlearnkit.attacks.signals import confidence
    from unlearnkit.audits.worst_case.gaps import Instruments
    from unlearnkit.types import Known, Observation

    def efficacy(forget: Observation, known: Known) -> float:
        assert known.members is not None  # the certificate hands over both
        assert known.population is not None
        return mia_efficacy(*map(confidence, (forget, known.members, known.population)))

    return Instruments({"RMIA": RMIAOffline()}, efficacy)


def _show_worst_case(result: WorstCase) -> None:
    """Methods in rows, found sets and random ones in columns; then what it means."""
    from unlearnkit.audits.words import number
    from unlearnkit.hardest import FOUND, RANDOM

    found = [one.name for one in result.sets if one.kind == FOUND]
    others = [one.name for one in result.sets if one.kind == RANDOM]
    table = Table(title=f"{result.id}: average gap to retraining, percentage points", title_justify="left")
    table.add_column("method")
    for name in found:
        table.add_column(name, justify="right", overflow="fold")
    table.add_column(f"{len(others)} random sets", justify="right")
    for method in result.methods:
        gaps = [number(result.cell(method, name).average_gap.value) for name in found]
        beside = [result.cell(method, name).average_gap.value for name in others]
        mean = sum(beside) / max(len(beside), 1)
        spread = f"{number(mean)} ({number(min(beside))} to {number(max(beside))})" if beside else "–"
        table.add_row(method, *gaps, spread)
    console.print(table)
    for sentence in result.sentences:
        console.print(sentence, markup=False, highlight=False)
    for flag in result.flags:
        console.print(f"note: {flag.sentence}", markup=False, highlight=False)


def _store(url: str | None, out: Path) -> Store:
    from unlearnkit.store import Store

    return Store(url or out / "store")


def _letterhead(spec: Spec) -> Letterhead | None:
    """Read before anything is trained: a mistake in it shows at once."""
    from unlearnkit.reports.letterhead import read_letterhead

    return None if spec.report.letterhead is None else read_letterhead(spec.path(spec.report.letterhead))


def _finish(out: Path, result: AuditResult, sidecar: bytes, letterhead: Letterhead | None = None) -> Path:
    from unlearnkit.audits.audit import save_audit
    from unlearnkit.reports.pdf import write_report

    path = save_audit(out, result, sidecar)
    report = out / "report.pdf"
    write_report(path, report, letterhead)
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
    for missing in result.oracles.missing if result.oracles else ():
        console.print(f"missing: {missing}", markup=False, highlight=False)
    style = VERDICT_STYLE[result.verdict.word]
    console.print(f"[{style}]{result.verdict.word}[/]  {escape(result.verdict.headline)}")
    if result.verdict.word in ("INVALID", "INCONCLUSIVE"):  # a row above may say PASS all the same
        for reason in result.verdict.why:
            console.print(f"  {reason}", markup=False, highlight=False)
    if result.nonstandard:
        console.print(f"NON-STANDARD: {'; '.join(result.nonstandard)}", markup=False, highlight=False)


def _command() -> str:
    """The command as it was typed, with the program's plain name."""
    return shlex.join(["unlearnkit", *sys.argv[1:]])


@app.command(epilog=example("unlearnkit report audit.json -o report.pdf"))
def report(
    result: Annotated[Path, typer.Argument(help="The result file.", metavar="AUDIT.json", show_default=False)],
    target: Annotated[
        Path, output("What to write: .pdf, .html, or .md for a model card.", *FILE, show_default=True)
    ] = Path("report.pdf"),
    organization: Annotated[
        Path | None,
        typer.Option(help="A TOML file with your organization, contact, logo, language and words.", show_default=False),
    ] = None,
    language: Annotated[
        str | None,
        typer.Option(help="en or de, before the language of the organization's file.", show_default=False),
    ] = None,
) -> None:
    """Write the report from a result file and its evidence; the same files give the same bytes."""
    from unlearnkit.reports.letterhead import Letterhead, read_letterhead, speaking
    from unlearnkit.reports.pdf import write_report

    check_file(target, "with --output")
    letterhead = Letterhead() if organization is None else read_letterhead(organization)
    write_report(result, target, letterhead if language is None else speaking(letterhead, language))
    console.print(f"report: {target}", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog=example("unlearnkit verify report.pdf"))
def verify(
    file: Annotated[
        Path,
        typer.Argument(
            help="A report.pdf, or an audit.json with its evidence beside it; or a worst_case.pdf or .json.",
            metavar="FILE",
            show_default=False,
        ),
    ],
    trust: Annotated[
        Path | None, typer.Option(help="Certificates (PEM) to which a signature must lead.", show_default=False)
    ] = None,
    statement: Annotated[
        Path | None,
        typer.Option(help="A signed statement; default: the one beside a report, if any.", show_default=False),
    ] = None,
) -> None:
    """Compute the verdict again from the evidence, check hashes and signatures.

    Exit code 1 when something does not hold, 2 when the file is no result at all.
    """
    from unlearnkit.audits.ledger.entries import shown
    from unlearnkit.audits.verify import is_worst_case, verify_file, verify_worst_case

    word = ""
    try:
        if trust is None and statement is None and is_worst_case(file):
            checks = verify_worst_case(file)
        else:
            checked = verify_file(file, trust=trust, statement=statement)
            checks, word = checked.checks, checked.result.verdict.word
    except Changed as error:
        console.print(f"[red]NO[/]  digest: {escape(shown(str(error)))}", highlight=False, soft_wrap=True)
        _refuse_file()
    for one in checks:
        console.print(
            f"{'[green]ok[/]' if one.passed else '[red]NO[/]'}  {one.name}: {escape(shown(one.sentence))}",
            soft_wrap=True,
        )
    if not all(one.passed for one in checks):
        _refuse_file()
    if not word:
        console.print(
            "[bold green]VERIFIED[/]  a worst-case result and not an audit: what its models answered is taken as stated"
        )
        return
    console.print(f"[bold green]VERIFIED[/]  the verdict {word} follows from the evidence")
    since = "" if checked.signed else ", since no signature says who wrote this"
    console.print(
        f"Not checked{since}: the request, the method and the model file are taken as stated. "
        "Compare the model's sha256 with the file that is shipped.",
        highlight=False,
    )


def _refuse_file() -> NoReturn:
    """Something that was looked at does not hold."""
    console.print("[bold red]REFUSED[/]  this file does not say what its evidence says, or its signature is broken")
    raise typer.Exit(1)


@app.command(epilog=example("unlearnkit sign report.pdf --key key.pem --certificate certificate.pem --statement"))
def sign(
    file: Annotated[Path, typer.Argument(help="The report (PDF).", metavar="REPORT.pdf", show_default=False)],
    key: Annotated[Path, typer.Option(help="The private key (PEM).", show_default=False)],
    certificate: Annotated[Path, typer.Option(help="Its certificate (PEM); a chain may follow.", show_default=False)],
    passphrase_file: Annotated[
        Path | None, typer.Option(help="Holds the key's passphrase; else it is asked for.", show_default=False)
    ] = None,
    statement: Annotated[
        bool, typer.Option("--statement", help="Also write a signed in-toto test-result statement on the model.")
    ] = False,
    signed_pdf: Annotated[Path | None, output("The signed report; default: REPORT.signed.pdf.", *FILE)] = None,
) -> None:
    """Sign a report that verifies (PAdES), and on request a statement on the model's digest (in-toto, DSSE)."""
    from datetime import UTC, datetime

    from unlearnkit.audits import signing
    from unlearnkit.audits.verify import verify_file
    from unlearnkit.reports.pdf import attachments
    from unlearnkit.store import write_atomic

    signing.needs_extra()
    passphrase = None
    if passphrase_file is not None:
        try:
            passphrase = passphrase_file.read_bytes().rstrip(b"\r\n")
        except OSError as error:
            raise UsageError(f"{passphrase_file}: cannot be read ({error.strerror})") from error
    elif sys.stdin.isatty() and signing.is_encrypted(key):
        passphrase = typer.prompt(f"Passphrase of {key}", hide_input=True, err=True).encode()
    identity = signing.read_identity(key, certificate, passphrase=passphrase, now=datetime.now(UTC))
    target = signed_pdf or file.with_suffix(".signed.pdf")
    if target.suffix != ".pdf":
        raise UsageError(f"{target}: the name of a signed report must end in .pdf")
    check_file(target, "with --output")
    audit, pdf = attachments(file)["audit.json"], file.read_bytes()
    if signing.is_signed(pdf):
        raise UsageError(f"{file}: is signed already; sign the file that unlearnkit report wrote")
    checked = verify_file(file)
    if faults := [check for check in checked.checks if not check.passed]:
        raise UsageError(f"{file}: does not verify, so it is not signed: {faults[0].name}: {faults[0].sentence}")
    signed = signing.sign_pdf(pdf, identity)
    body = signing.statement(checked.result, audit=audit, pdf=signed)
    write_atomic(target, signed)
    console.print(f"signed: {target}", markup=False, highlight=False, soft_wrap=True)
    if statement:
        beside = target.with_suffix(".intoto.json")
        write_atomic(beside, signing.envelope(body, identity))
        console.print(f"statement: {beside}", markup=False, highlight=False, soft_wrap=True)


@app.command(epilog=example("unlearnkit selftest"))
def selftest(
    long: Annotated[bool, typer.Option("--long", help="Five times as many simulated audits.")] = False,
    seed: Annotated[int, typer.Option(help="Another seed gives other models and other simulated audits.", min=0)] = 0,
) -> None:
    """Sixteen audits whose right answer is known beforehand. Exit code 1 when the auditor gets one wrong."""
    from unlearnkit.audits.selftest import LONG, RUNS
    from unlearnkit.audits.selftest import selftest as run_selftest

    table = Table()
    for column in ("#", "check"):
        table.add_column(column)
    for column in ("measured", "must be"):
        table.add_column(column, overflow="fold")
    table.add_column("", no_wrap=True)
    wrong = 0
    with _progress("selftest") as watch:
        for known in run_selftest(runs=LONG if long else RUNS, seed=seed, watch=watch):
            said = "[green]ok[/]" if known.passed else "[red]NO[/]"
            table.add_row(str(known.number), known.name, escape(known.measured), escape(known.limit), said)
            wrong += not known.passed
    console.print(table)
    raise typer.Exit(1 if wrong else 0)


@app.command(epilog=example("unlearnkit methods"))
def methods() -> None:
    """What methods there are, what each must see, and its hyperparameters."""
    from unlearnkit.methods import METHODS

    rows = [(method, _first_line(method), _needs(method().needs.names())) for method in METHODS.values()]
    console.print(_table(("method", "what it does", "must see"), rows))


@app.command(epilog=example("unlearnkit attacks"))
def attacks() -> None:
    """What attacks and probes there are, and what an attacker must hold, or ask, for each."""
    from unlearnkit.attacks import ATTACKS, LABEL_ONLY, PROBES

    files: set[str] = set()
    rows = []
    for attack in ATTACKS.values():  # a file's first line is about the first of its attacks
        own = attack.__module__ in files or not attack.weight
        files.add(attack.__module__)
        said = _first_sentence(attack) if own else _first_line(attack)
        said += "" if attack.weight else ". [bold]Comparison only, no verdict weight.[/]"
        rows.append((attack, said, ", ".join(_HOLDS[name] for name in attack.holds.names()) or "nothing more"))
    console.print("Attacks on observations: a score per example, higher = more like trained on.")
    console.print(_table(("attack", "what it does", "must hold"), rows))
    console.print("Attacks by labels alone: the model is asked for classes and tells nothing else.")
    asked = [(attack, _first_sentence(attack), f"{attack().queries} per example") for attack in LABEL_ONLY.values()]
    console.print(_table(("attack", "what it does", "labels, at most"), asked))
    console.print("Probes of open models: a reading per model, judged by rank among oracles.")
    about = {True: "a forgotten class", False: "any deletion"}
    read = [(probe, _first_sentence(probe), about[probe.class_wise]) for probe in PROBES.values()]
    console.print(_table(("probe", "what it reads", "asks about"), read))


_HOLDS = {
    "out": "references without the point",
    "in": "references with it",
    "forgotten": "references that unlearned it",
    "population": "a population",
    "population_references": "the references on it",
    "members": "known members",
    "original": "the original",
    "logits": "logits",
    "features": "features",
}


def _table(columns: tuple[str, str, str], rows: Sequence[tuple[type, str, str]]) -> Table:
    """Dataclasses with their fields and defaults below the name, what each does, and what `columns` says of it."""
    table = Table(box=SIMPLE_HEAD, show_lines=True, pad_edge=False)
    table.add_column(columns[0], overflow="fold", max_width=26)
    table.add_column(columns[1], ratio=3)
    table.add_column(columns[2], ratio=2)
    for thing, does, third in rows:
        # A method inside the method is named only; its own settings stand in its own row.
        fields = [
            f.name if f.default is dataclasses.MISSING else f"{f.name}={getattr(f.default, 'name', f.default)}"
            for f in dataclasses.fields(thing)
        ]
        table.add_row("\n".join([f"[bold]{thing.__name__}[/]", *map(escape, fields)]), does, third)
    return table


def _first_line(thing: type) -> str:
    line = (sys.modules[thing.__module__].__doc__ or "").strip().splitlines()[0]
    line = line.removeprefix(f"{thing.__name__}: ").removesuffix(".")
    return escape(line[0].upper() + line[1:])


def _first_sentence(thing: type) -> str:
    paragraph = " ".join((thing.__doc__ or "").strip().partition("\n\n")[0].split())
    return escape(paragraph.partition(". ")[0].removesuffix("."))


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


app.command(epilog=example("unlearnkit check deletions.jsonl --model model.safetensors"))(check)


@app.command(epilog=example("unlearnkit demo --out unlearnkit-demo"))
def demo(
    out: OutOption = Path("unlearnkit-demo"),
    fresh: FreshOption = False,
) -> None:
    """The whole way on the embedded digits: two deletions, six audits, six reports. About a minute on two cores."""
    from unlearnkit.audits.demo import run_demo

    check_folder(out)
    with _progress("demo") as watch:
        told = run_demo(out, fresh=fresh, watch=watch)
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
    except Interrupted as stopped:
        kept = f"{stopped.made:,} new result{'' if stopped.made == 1 else 's'}" if stopped.made else "nothing new"
        said = "are kept" if stopped.made > 1 else "is kept" if stopped.made else "was finished yet"
        _refuse(f"interrupted; {kept} {said}, run the same command again to go on")
        sys.exit(INTERRUPTED)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = (
            "free some space, then run again"
            if full
            else "check the path, or name another folder with --out or --store"
        )
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
        _refuse("interrupted; what was finished is kept, run the same command again to go on")
    sys.exit(code or 0)


def _refuse(sentence: str) -> int:
    from unlearnkit.audits.ledger.entries import shown

    if os.environ.get("UNLEARNKIT_DEBUG") and sys.exc_info()[0] is not None:
        traceback.print_exc()
    # Paths and names in it are somebody else's text: no terminal takes a command from them.
    said = "\n".join(shown(line) for line in sentence.split("\n"))
    errors.print(f"unlearnkit: {said}", markup=False, highlight=False, soft_wrap=True)
    return 2


if __name__ == "__main__":
    main()
