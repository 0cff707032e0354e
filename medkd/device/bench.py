"""Bench: what releases cost side by side, with how accurate they are where their study knows it."""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from medkd.device.inputs import find_inputs
from medkd.device.latency import measure_latencies
from medkd.device.manifest import MANIFEST, read_manifest, sha256
from medkd.errors import MedkdError
from medkd.options import StudyOptions
from medkd.results import Latency, Report, Result, accuracy_class, primary_figure, read_report
from medkd.types import Role

REPORT = "report.json"

MLPERF_QUERIES = 64


class Accuracy(Result):
    """How accurate a release is, from its study's report.

    Attributes:
        figure: dice or auroc, on the test split.
        value: of the release.
        reference: of the teacher.
    """

    figure: str
    value: float
    reference: float

    @property
    def of_reference(self) -> str:
        """MLPerf's accuracy class.

        Example:
            >>> Accuracy(figure="dice", value=0.8811, reference=0.889).of_reference
            '99 %'
        """
        return accuracy_class(self.value, self.reference)


class Bench(Result):
    """One release that was measured."""

    release: str
    latency: Latency
    accuracy: Accuracy | None = None


def bench(
    releases: Sequence[Path], images: Sequence[Path], *, queries: int, threads: int
) -> list[Bench]:
    """Measure releases in turns.

    Raises:
        DataError: an image cannot be read, or is none for a release.
        ReleaseError: a release cannot be used.
    """
    options = read_manifest(releases[0]).preprocess
    with ExitStack() as stack:
        sources = [[image] for image in images]
        if options.modalities:
            found = find_inputs(images, options.reading, options.modalities)
            sources = [list(stack.enter_context(each.apart())) for each in found]
        measured = measure_latencies(releases, sources, queries=queries, threads=threads)
    reports = reports_near(releases)
    return [
        Bench(release=str(release), latency=latency, accuracy=accuracy_of(release, reports))
        for release, latency in measured.items()
    ]


def reports_near(releases: Iterable[Path]) -> list[Report]:
    """Return the reports of the studies that releases lie in, and of all below ``runs``."""
    studies = [release.resolve().parent.parent for release in releases]
    studies += sorted(Path(StudyOptions.model_fields["root"].default).resolve().glob("*"))
    return [report for study in dict.fromkeys(studies) if (report := _report(study / REPORT))]


def accuracy_of(release: Path, reports: Iterable[Report]) -> Accuracy | None:
    """Return what a study has measured of a release, wherever it lies now; None if none has.

    A report names the releases it measured by the digests of their manifests.
    """
    digest = sha256(release / MANIFEST)
    for report in reports:
        found = dict(_figures(report))
        teacher = found.get(str(Role.TEACHER))
        for name, (figure, value) in found.items():
            if teacher and report.digests.get(f"release {name}") == digest:
                return Accuracy(figure=figure, value=value, reference=teacher[1])
    return None


def _report(path: Path) -> Report | None:
    try:
        return read_report(path)
    except (MedkdError, OSError, ValueError):
        return None


def _figures(report: Report) -> Iterator[tuple[str, tuple[str, float]]]:
    """Yield name, figure and value of all releases of a study."""
    for role, result in report.roles.items():
        if figure := primary_figure(result):
            yield str(role), (figure, result.headline[figure].value)
    for point in report.releases:
        yield point.name, (point.figure, point.value.value)


def tables(measured: Sequence[Bench], *, queries: int) -> Iterator[Table]:
    """Yield the table of latencies, and that of what they consist of."""
    first, names = measured[0].latency, _names([each.release for each in measured])
    flags = " ".join(first.processor_flags)
    short = f" MLPerf asks for at least {MLPERF_QUERIES}." if queries < MLPERF_QUERIES else ""
    yield _table(
        "release accuracy p50 p90 p99 p90_at_most network cold_start peak_MiB size_MiB",
        [[name, *_row(each)] for name, each in zip(names, measured, strict=True)],
        title=f"milliseconds file to file, {queries} queries in turns, {first.threads} threads",
        caption=f"{first.processor} ({flags}), load {first.load_average:.1f}. The p90 is at most "
        f"so much with 99 % confidence (early stopping of MLPerf).{short}",
    )
    stages = list(dict.fromkeys(s for each in measured for s in each.latency.cold_stages_ms))
    yield _table(
        " ".join(["release", *stages]),
        [
            [name, *row]
            for name, each in zip(names, measured, strict=True)
            for row in _waterfall(each, stages)
        ],
        title="where the milliseconds go: warm, then cold",
    )


def _names(releases: Sequence[str]) -> list[str]:
    """Return what tells releases apart: their paths below the folder that holds them all.

    Example:
        >>> _names(["runs/x/releases/teacher", "runs/x/releases/student"])
        ['teacher', 'student']
    """
    paths = [Path(each).absolute() for each in releases]
    shared = os.path.commonpath([path.parent for path in paths])
    return [escape(str(path.relative_to(shared))) for path in paths]


def _row(each: Bench) -> list[str]:
    latency, accuracy = each.latency, each.accuracy
    times = latency.file_to_file_ms
    said = f"{accuracy.figure} {accuracy.value:.3f}, {accuracy.of_reference}" if accuracy else ""
    bound = f"{latency.p90_bound_ms:.1f}" if latency.p90_bound_ms is not None else "too few"
    return [
        said,
        *(f"{value:.1f}" for value in (times.p50, times.p90, times.p99)),
        bound,
        f"{latency.network_ms.p50:.1f}",
        f"{latency.cold_start_ms:.0f}",
        f"{latency.peak_memory_mib:.0f}",
        "" if latency.size_mib is None else f"{latency.size_mib:.1f}",
    ]


def _waterfall(each: Bench, stages: Sequence[str]) -> Iterator[list[str]]:
    for laps in (each.latency.stages_ms, each.latency.cold_stages_ms):
        yield [f"{laps[s]:.1f}" if s in laps else "" for s in stages]


def _table(
    columns: str, rows: Sequence[Sequence[str]], *, title: str, caption: str | None = None
) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for number, column in enumerate(columns.split()):
        table.add_column(column.replace("_", " "), justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    return table
