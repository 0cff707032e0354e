"""The command line: each verb is a thin door to the function of the same name."""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from medkd import __version__
from medkd.errors import MedkdError
from medkd.extras import naming_extras
from medkd.types import Role, Runtime, Variant

if TYPE_CHECKING:
    from medkd.data.check import Cohort
    from medkd.results import Report
    from medkd.study import Study

# read when torch is loaded: threads that wait for each other sleep, so that the process which
# augments gets its share of the cores; a training step takes 10 % less time
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

app = typer.Typer(
    name="medkd",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The study's YAML file.")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a value; may be repeated."),
]
Budget = Annotated[str, typer.Option(help="quick: two CPU cores; full: a GPU.")]


def _show_version(asked: bool) -> bool:
    if asked:
        typer.echo(f"medkd {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show it and exit."),
    ] = False,
) -> None:
    """Distil accurate medical-imaging models into fast ones, and prove they can be trusted."""


def open_study(config: Path, overrides: list[str] | None, budget: str) -> "Study":
    """Load a config into a study; nothing is written yet."""
    from medkd.config import load
    from medkd.study import Study

    return Study(load(config, overrides=overrides or [], budget=budget), config_path=config)


@contextmanager
def _checked(
    config: Path,
    overrides: list[str] | None,
    budget: str,
    *,
    may_begin: bool = False,
    beside_others: bool = False,
) -> Iterator[tuple["Study", "Cohort"]]:
    """Open a study, check its data and hold it while a stage runs, unless it runs beside others.

    A stage that builds on others (not ``may_begin``) leaves no folder of a study without any.
    """
    from medkd.data.check import check as check_cohort
    from medkd.export.sizing import size_student
    from medkd.train.check_models import check_models

    study = open_study(config, overrides, budget)
    if not may_begin:
        study.refuse_new()
    check_models(study.config)
    cohort = check_cohort(study)
    if beside_others:
        yield study, cohort
        return
    with study.hold(cohort.split, digests=cohort.part_digests, folds=cohort.folds(study.config)):
        yield size_student(study, cohort), cohort


@app.command()
def init(
    data: Annotated[Path, typer.Argument(metavar="DATA_DIR", help="A folder of data, or an npz.")],
    folder: Annotated[Path, typer.Argument(metavar="STUDY_DIR", help="Where the study is to be.")],
) -> None:
    """Write a study for a folder of data: the datalist, a config with its reasons, a data card.

    Example: medkd init ~/data/Task04_Hippocampus hippocampus
    """
    from medkd.data.start.init import init as start
    from medkd.progress import console

    made = start(data, folder)
    console.print(f"{made.summary}\n{made.config}\nnext: medkd check {made.config}", markup=False)


@app.command()
def check(
    config: ConfigPath,
    overrides: Overrides = None,
    budget: Budget = "quick",
    card: Annotated[
        bool, typer.Option("--card", help="Write what the data show into their card.")
    ] = False,
    show_augmentation: Annotated[
        bool, typer.Option("--show-augmentation", help="Draw what training does to a case.")
    ] = False,
) -> None:
    """Build every model, read every case and name every problem, before anything is trained.

    Exit 0 if the data are sound, 1 if anything is an error, 2 if the config is wrong, 3 if nothing
    can be read that lists the cases.

    Example: medkd check configs/hippocampus.yaml
    """
    from medkd.data.check import cohort_of
    from medkd.data.quality import account, survey
    from medkd.progress import console
    from medkd.train.check_models import check_models

    study = open_study(config, overrides, budget)
    check_models(study.config)
    found = survey.survey(study, keep=True)
    page = account.write(study, found)
    account.show(found)
    console.print(f"{account.summary(found)}\n{page}")
    cohort = cohort_of(study, found)
    if card:
        from medkd.data.croissant import update_card

        console.print(f"{update_card(study, found)}")
    if show_augmentation:
        from medkd.data.show import draw_augmentation

        console.print(f"{draw_augmentation(study, cohort)}")


@app.command()
def train(
    config: ConfigPath,
    role: Annotated[
        Role,
        typer.Option(metavar="[teacher|baseline]", help="The student is trained by medkd distill."),
    ],
    overrides: Overrides = None,
    budget: Budget = "quick",
) -> None:
    """Train the teacher, or the student's network on labels alone.

    Example: medkd train configs/hippocampus.yaml --role teacher
    """
    from medkd.track.session import tracked
    from medkd.train import run

    if role is Role.STUDENT:
        raise typer.BadParameter("the student is trained by `medkd distill`")
    make = run.train_teacher if role is Role.TEACHER else run.train_baseline
    begun = _checked(config, overrides, budget, may_begin=True)
    with begun as (study, cohort), tracked(study) as runs:
        make(study, cohort, tracker=runs[role])


@app.command()
def soften(
    config: ConfigPath,
    overrides: Overrides = None,
    budget: Budget = "quick",
    verify: Annotated[
        int, typer.Option(min=0, help="Compute this many cases anew and compare.")
    ] = 0,
    part: Annotated[
        str | None,
        typer.Option(metavar="K/N", help="Write every N-th case from the K-th on, beside others."),
    ] = None,
) -> None:
    """Write the teacher's soft targets, once a case.

    Example: medkd soften configs/hippocampus.yaml --verify 5
    """
    from medkd.progress import console
    from medkd.train import soften as soft_targets

    if part is not None:
        numbers = _part(part)
        if verify:
            raise typer.BadParameter("--verify asks for all parts; leave out --part")
        with _checked(config, overrides, budget, beside_others=True) as (study, cohort):
            soft_targets.soften_part(study, cohort, part=numbers[0], parts=numbers[1])
        return
    with _checked(config, overrides, budget) as (study, cohort):
        soft_targets.soften(study, cohort)
        if verify:
            largest = soft_targets.verify(study, cohort, cases=verify)
            console.print(f"largest difference of a probability: {largest:.2g}")


def _part(said: str) -> tuple[int, int]:
    """Read ``2/4``.

    Raises:
        ConfigError: it is something else.
    """
    from medkd.errors import ConfigError

    part, slash, parts = said.partition("/")
    is_number = slash and part.isdecimal() and parts.isdecimal()
    if not is_number or not 1 <= int(part) <= int(parts):
        raise ConfigError(f"--part {said}: give K/N, as 2/4 for the second of four parts")
    return int(part), int(parts)


@app.command()
def distill(config: ConfigPath, overrides: Overrides = None, budget: Budget = "quick") -> None:
    """Train the student on labels and soft targets.

    Example: medkd distill configs/hippocampus.yaml
    """
    from medkd.track.session import tracked
    from medkd.train.run import distill as distil_student

    with _checked(config, overrides, budget) as (study, cohort), tracked(study) as runs:
        distil_student(study, cohort, tracker=runs[Role.STUDENT])


@app.command()
def export(
    config: ConfigPath,
    variant: Annotated[
        list[Variant] | None, typer.Option(help="May be repeated; the config's if left out.")
    ] = None,
    role: Annotated[
        list[Role] | None,
        typer.Option(help="May be repeated; the student, and in ONNX all three, if left out."),
    ] = None,
    overrides: Overrides = None,
    budget: Budget = "quick",
) -> None:
    """Write releases/teacher, releases/baseline, releases/student and the student's variants.

    Example: medkd export configs/hippocampus.yaml --variant int8 --variant bundle
    """
    from medkd.export.release import export_all
    from medkd.progress import console
    from medkd.train.run import retrain

    with _checked(config, overrides, budget) as (study, cohort):
        folders = export_all(
            study, cohort, variants=variant or (), roles=role or (), retrain=retrain
        )
    console.print("\n".join(map(str, folders)))


@app.command()
def evaluate(config: ConfigPath, overrides: Overrides = None, budget: Budget = "quick") -> None:
    """Open the test split, score the three releases and judge the gates.

    Example: medkd evaluate configs/hippocampus.yaml
    """
    from medkd.evaluate.run import evaluate as score
    from medkd.progress import console
    from medkd.report.headline import headline
    from medkd.track.session import tracked

    with _checked(config, overrides, budget) as (study, cohort), tracked(study) as runs:
        report = score(study, cohort, quiet=runs.quiet)
        runs.results(report)
    console.print(headline(report))


@app.command()
def report(
    config: Annotated[
        Path | None, typer.Argument(metavar="CONFIG", help="The study's YAML file.")
    ] = None,
    overrides: Overrides = None,
    budget: Budget = "quick",
    template: Annotated[
        bool, typer.Option("--template", help="Write the questions that people must answer.")
    ] = False,
    pdf: Annotated[bool, typer.Option("--pdf", help="Print report.pdf as well.")] = False,
    sign_off: Annotated[
        bool,
        typer.Option("--sign-off", help="Call the student's release reviewed, if it is ready."),
    ] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(metavar="STUDY_A STUDY_B", help="Show what changed from one to the other."),
    ] = None,
) -> None:
    """Draw report.html from report.json; exit 0 if ready for review, 1 if not, 2 if incomplete.

    With --compare: exit 1 if a criterion that STUDY_A met is not met by STUDY_B.

    Example: medkd report configs/hippocampus.yaml --pdf
    """
    if compare:
        _show_changes(*compare, pdf=pdf)
    if config is None:
        raise typer.BadParameter("give a CONFIG, or two study folders with --compare")
    study = open_study(config, overrides, budget)
    if template:
        _write_questions(study)
    _draw_report(study, pdf=pdf, sign_off=sign_off)


def _show_changes(before: Path, after: Path, *, pdf: bool) -> NoReturn:
    from medkd.progress import console
    from medkd.report import changes
    from medkd.report.pdf import write_pdf

    versions = changes.compare(before, after)
    for table in changes.terminal(versions):
        console.print(table)
    page = changes.write_changes(versions, after)
    console.print(write_pdf(page) if pdf else page)
    raise typer.Exit(int(changes.is_worse(versions)))


def _write_questions(study: "Study") -> NoReturn:
    from medkd.progress import console
    from medkd.statement import statement_path, write_template

    path = statement_path(study)
    write_template(path)
    console.print(f"{path}: answer what is blank in it, then run medkd report again")
    raise typer.Exit


def _draw_report(study: "Study", *, pdf: bool, sign_off: bool) -> NoReturn:
    from rich.markup import escape

    from medkd.progress import console
    from medkd.report.build import PAGE, publish
    from medkd.report.pdf import write_pdf
    from medkd.results import EXIT_CODES

    found, page = publish(study), study.folder / PAGE
    colour = "green" if EXIT_CODES[found.verdict] == 0 else "red"
    console.print(f"[bold {colour}]{found.verdict}[/]: {escape('; '.join(found.reasons))}")
    console.print(write_pdf(page) if pdf else page)
    if sign_off:
        _sign_off(study, found)
    raise typer.Exit(EXIT_CODES[found.verdict])


def _sign_off(study: "Study", found: "Report") -> None:
    from medkd.progress import console
    from medkd.track.mlflow import sync as send
    from medkd.track.session import sign_off

    sign_off(study, found)
    console.print("signed off: the student's release is now called reviewed")
    done = send(study.folder, attempts=3)
    if done.pending:
        console.print(f"MLflow does not know it yet; medkd sync {study.folder}", markup=False)


@app.command()
def predict(
    release: Annotated[Path, typer.Argument(help="A release folder.")],
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="INPUT…", help="Images, folders of them, a DICOM study."),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="A file or a folder.")],
    runtime: Annotated[
        Runtime | None, typer.Option(help="The one measured to be fastest here if left out.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse images unlike the validated data.")
    ] = False,
    nifti: Annotated[
        bool, typer.Option("--nifti", help="NIfTI masks for DICOM images, not DICOM SEG.")
    ] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write those of all classes as well.")
    ] = False,
) -> None:
    """Answer for images: masks on each one's own grid, or class probabilities, and what to know.

    A release of several modalities takes a file of each, CASE_t1.nii.gz CASE_flair.nii.gz (or
    CASE_0000.nii.gz CASE_0001.nii.gz), on one grid, or a folder of them, or one 4D file; or the
    folder of a DICOM study, if its preprocess.reading.series_of tells their series apart.

    Example: medkd predict runs/hippocampus/releases/student scan.nii.gz mask.nii.gz
    """
    from medkd.device.answer import How, answer
    from medkd.progress import console

    how = How(runtime=runtime, strict=strict, nifti=nifti, probabilities=probabilities)
    summary = answer(release, sources, target, how=how)
    flagged = f", {len(summary.unlike)} of them unlike the validated data" * bool(summary.unlike)
    console.print(
        f"{len(summary.written)} answered{flagged}, {len(summary.failed)} failed; {target}"
    )
    if summary.failed:
        raise typer.Exit(3)


@app.command()
def bench(
    releases: Annotated[list[Path], typer.Argument(help="Release folders.")],
    image: Annotated[list[Path], typer.Option(help="An image to answer for; may be repeated.")],
    queries: Annotated[int, typer.Option(min=1, help="Answers that are counted.")] = 64,
    threads: Annotated[int, typer.Option(min=1, help="Threads of the network.")] = 2,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there too.")
    ] = None,
) -> None:
    """Measure latency and memory of releases, file to file, in turns; with accuracy beside it.

    Example: medkd bench runs/x/releases/teacher runs/x/releases/student --image scan.nii.gz
    """
    import json

    from medkd.device.bench import bench as measure
    from medkd.device.bench import tables
    from medkd.progress import console
    from medkd.study import write_atomic

    if json_path and not json_path.parent.is_dir():
        raise typer.BadParameter(f"--json: there is no folder {json_path.parent}")
    # a line and no bar, which would take time from what is being timed
    console.print(f"measuring {', '.join(map(str, releases))}", markup=False)
    measured = measure(releases, image, queries=queries, threads=threads)
    for table in tables(measured, queries=queries):
        console.print(table)
    if json_path:
        found = [each.model_dump(mode="json") for each in measured]
        write_atomic(json_path, json.dumps(found, indent=1))


@app.command()
def serve(
    release: Annotated[Path, typer.Argument(help="A release folder.")],
    peer: Annotated[str, typer.Option(metavar="TITLE@HOST:PORT", help="Gets the answers.")],
    spool: Annotated[Path, typer.Option(help="The folder of the queue; its owner's alone.")],
    host: Annotated[str, typer.Option(help="To listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="To listen on, for DICOM.")] = 11112,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="TITLE", help="May call; may be repeated.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other option.")
    ] = None,
) -> None:
    """Be a DICOM node: series come in by C-STORE, DICOM SEG or SR goes to the peer.

    Example: medkd serve runs/x/releases/student --peer PACS@127.0.0.1:4242 --spool spool
    """
    from medkd.device.node.options import Peer, node_options
    from medkd.device.node.serve import serve as be_node

    given = {"spool": spool, "peer": Peer.parse(peer), "host": host, "port": port}
    be_node(release, node_options(given | {"allow": tuple(allow or ())}, overrides or ()))


@app.command()
def sync(
    study: Annotated[Path, typer.Argument(help="A study's folder.")],
    uri: Annotated[
        str | None, typer.Option(help="The store; MLFLOW_TRACKING_URI if left out.")
    ] = None,
) -> None:
    """Send a study's journal to MLflow; any number of times, nothing is sent twice.

    Exit 1 if something could not be sent; run it again and it goes on from there.

    Example: medkd sync runs/hippocampus
    """
    from medkd.progress import console
    from medkd.track.mlflow import sync as send

    done = send(study, uri=uri, attempts=3)
    console.print(f"{done.sent} events sent, {done.pending} pending")
    if done.pending:
        console.print(done.problem, markup=False)
        raise typer.Exit(1)


@app.command()
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="On loopback.")] = 5000,
) -> None:
    """Open the MLflow UI on the store that holds the studies of this folder.

    Example: medkd ui
    """
    from medkd.progress import console
    from medkd.track.mlflow import default_uri, ui_command, views

    command = ui_command(default_uri(), port=port)
    for experiment, path in views(default_uri()).items():
        console.print(f"{experiment}: http://127.0.0.1:{port}/{path}")
    os.execv(command[0], command)  # what ends this process (SIGTERM, SIGINT) ends the server


@app.command()
def doctor() -> None:
    """Say what this machine has, what is missing, and what to install.

    Example: medkd doctor
    """
    from medkd.doctor import doctor as diagnose
    from medkd.progress import console

    console.print(diagnose())


def conclude(study: "Study", report: "Report") -> None:
    """Draw the report's page; print the table, the verdict and where to look further."""
    from rich.markup import escape

    from medkd.progress import console
    from medkd.report.build import PAGE, publish
    from medkd.report.headline import headline

    publish(study)
    console.print(headline(report))
    console.print(f"\n{report.verdict}: {escape('; '.join(report.reasons))}")
    console.print(f"report    {study.folder / PAGE}")
    console.print(f"MLflow    {_own_command()} ui")


def _own_command() -> str:
    """How the user can call ``medkd``, whether or not the environment is activated."""
    here = Path(sys.executable).with_name("medkd")
    found = shutil.which("medkd")
    return "medkd" if found and Path(found) == here else os.path.relpath(here)


def main() -> None:
    """Run the command line."""
    guarded(app)


def run_pipeline(main: Callable[..., None]) -> None:
    """Run a recipe's ``main`` as a command of its own."""
    single = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    single.command()(main)
    guarded(single)


def guarded(command: Callable[[], object]) -> None:
    """Run a command; a known error is one message and its exit code, a bug is a traceback."""
    # an import of mlflow.pytorch lets errors through alone
    logging.getLogger("medkd").setLevel(logging.WARNING)
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        with naming_extras():
            _with_others(command)
    except MedkdError as error:
        if debug:
            raise
        from rich.markup import escape

        from medkd.progress import error_console

        error_console.print(f"[bold red]error:[/] {escape(str(error))}")
        sys.exit(error.exit_code)


def _with_others(command: Callable[[], object]) -> None:
    """Run a command; under ``torchrun`` the first process does, and the others train with it."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        command()
        return
    from medkd.progress import console
    from medkd.train import distributed
    from medkd.train.run import take_part

    with distributed.together():
        if distributed.rank() == 0:
            command()
        else:
            console.quiet = True
            distributed.follow(take_part)
