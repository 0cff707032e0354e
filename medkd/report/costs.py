"""Costs: the tables of time, memory and size."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from medkd.report.tables import (
    UNKNOWN,
    Cell,
    Table,
    heads,
    interval_cell,
    role_cell,
    role_head,
    roles_of,
)
from medkd.report.wording import (
    HARD_SPACE,
    MINUS,
    amount,
    facts,
    milliseconds,
    plain,
    text,
    three_digits,
    title,
    wording,
)
from medkd.results import (
    Interval,
    Latency,
    Parity,
    Percentiles,
    Report,
    RoleResult,
    accuracy_class,
    primary_figure,
)
from medkd.types import Role

N = TypeVar("N", int, float)


def cost_heads() -> tuple[Cell, ...]:
    """Return the heads of the headline's last columns."""
    return (
        Cell(f"Parameters{HARD_SPACE}↓"),
        Cell(f"File to file{HARD_SPACE}↓", "p50, p90"),
        Cell(f"Network{HARD_SPACE}↓", "p50"),
        Cell(f"Size{HARD_SPACE}↓"),
    )


def cost_cells(result: RoleResult) -> tuple[Cell, ...]:
    """Return the headline's last columns for one role."""
    counted, size = _known(result.parameters, amount), _known(result.size_mib, _mebibytes)
    if result.latency is None:
        return (counted, UNKNOWN, UNKNOWN, size)
    return (counted, *_times(result.latency), size)


def _times(measured: Latency) -> tuple[Cell, Cell]:
    whole, network = measured.file_to_file_ms, measured.network_ms
    return (
        Cell(milliseconds(whole.p50), f"p90 {milliseconds(whole.p90)}"),
        Cell(milliseconds(network.p50)),
    )


def latency(report: Report) -> Table:
    """Return what an answer costs on the machine it was measured on."""
    results = roles_of(report)
    written = [_accuracy(r, report) | _written(r.latency) if r.latency else {} for r in results]
    names = dict.fromkeys(name for column in written for name in column)
    rows = [
        (Cell(name), *(Cell(column[name]) if name in column else UNKNOWN for column in written))
        for name in names
    ]
    caption = "One case after another, in a process that does nothing else."
    return Table(caption, heads("Quantity", *(role_head(r.role) for r in results)), tuple(rows))


def releases(report: Report) -> Table:
    """Return the further variants that were measured on the test split; often no rows."""
    rows = [
        (
            Cell(point.name, mood=point.role.value),
            interval_cell(point.value, key=point.figure, report=report),
            Cell(_of_teacher(point.figure, point.value, report)),
            *_times(point.latency),
            Cell(_mebibytes(point.size_mib)),
        )
        for point in report.releases
    ]
    figure = title(report.releases[0].figure) if report.releases else ""
    head = heads("Release", figure, Cell("Of the teacher's", "MLPerf's class"), *cost_heads()[1:])
    return Table("Further releases, on the same test cases.", head, tuple(rows))


def sizing(report: Report) -> Table:
    """Return the widths that were tried for the student's latency budget."""
    budget = (report.config.get("student", {}).get("budget") or {}).get("latency_ms")
    rows = [
        (
            _options(point.model),
            Cell(amount(point.parameters)),
            Cell(milliseconds(point.latency_p90_ms), f"p50 {milliseconds(point.latency_p50_ms)}"),
            Cell(milliseconds(point.network_ms)),
            Cell("chosen", mood="good") if point.chosen else Cell(""),
        )
        for point in report.sizing
    ]
    caption = f"The student was sized to answer 9 of 10 images within {budget} ms on this machine."
    head = heads("Network", "Parameters", "File to file, p90", "Network, p50", "")
    return Table(caption, head, tuple(rows))


def variants(report: Report) -> Table:
    """Return what each released variant lost beside the network as trained."""
    rows = [
        (
            Cell(result.variant.of(result.role), runtime),
            Cell(_fine(parity.difference.value), _interval(parity)),
            Cell(f"{100 * parity.agreement:.2f} %"),
            Cell(three_digits(parity.largest_logit_difference)),
            Cell(f"{parity.ece:.4f}", f"as trained {parity.trained_ece:.4f}"),
            _known(result.size_mib, _mebibytes),
            Cell("not released", result.refused[runtime], mood="bad")
            if runtime in result.refused
            else Cell("released", mood="good"),
        )
        for result in report.variants
        for runtime, parity in result.parity.items()
    ]
    caption = "Released networks beside the networks as trained, on the validation cases."
    head = heads(
        "Release",
        "Difference",
        "Same class",
        "Largest logit difference",
        "ECE, fitted anew",
        "Size",
        "",
    )
    return Table(caption, head, tuple(rows))


def attempts(report: Report) -> Table:
    """Return the ways in which variants were made, where the first did not do; often no rows."""
    rows = [
        (
            Cell(result.variant.of(result.role), attempt.way),
            UNKNOWN
            if attempt.difference is None
            else Cell(_fine(attempt.difference.value), _bounds(attempt.difference)),
            Cell("refused", attempt.refused, mood="bad")
            if attempt.refused
            else Cell("released", mood="good"),
        )
        for result in report.variants
        if len(result.attempts) > 1
        for attempt in result.attempts
    ]
    caption = "The ways that were tried, one after another, until what was made lost little enough."
    return Table(caption, heads("Release", "Difference", ""), tuple(rows))


def _interval(parity: Parity) -> str:
    return f"{wording(parity.figure).name}, {_bounds(parity.difference)}"


def _bounds(difference: Interval) -> str:
    low, high = difference.low, difference.high
    return "no interval" if low is None or high is None else f"{_fine(low)} to {_fine(high)}"


def _fine(difference: float) -> str:
    """Write what a variant costs: less than the decimals of its figure show."""
    return f"{difference:+.4f}".replace("-", MINUS)


def models(report: Report) -> Table:
    """Return what each role is: network, options, size."""
    rows = [
        (
            role_cell(r.role),
            _options(r.model),
            _known(r.parameters, amount),
            _known(r.macs, amount),
            _known(r.size_mib, _mebibytes),
        )
        for r in roles_of(report)
    ]
    head = heads("Model", "Network", "Parameters", "Multiply-adds of one window", "Size")
    return Table("The networks that were compared.", head, tuple(rows), kind="words")


def _options(model: Mapping[str, object]) -> Cell:
    options = {key: value for key, value in model.items() if key != "name"}
    below = "; ".join(f"{key}: {text(value)}" for key, value in facts(options))
    return Cell(text(model.get("name", "not stated")), below)


def _accuracy(result: RoleResult, report: Report) -> dict[str, str]:
    figure = primary_figure(result)
    if figure is None:
        return {}
    reached = _of_teacher(figure, result.headline[figure], report)
    return {f"{wording(figure).name}, of the teacher's (MLPerf's class)": reached}


def _of_teacher(figure: str, value: Interval, report: Report) -> str:
    teacher = report.roles.get(Role.TEACHER)
    if teacher is None or figure not in teacher.headline:
        return "no teacher"
    return accuracy_class(value.value, teacher.headline[figure].value)


def _written(measured: Latency) -> dict[str, str]:
    bound, flags = measured.p90_bound_ms, ", ".join(measured.processor_flags)
    at_most = {} if bound is None else {"File to file, p90 at most (MLPerf)": milliseconds(bound)}
    return {
        **_spread("File to file", measured.file_to_file_ms),
        **at_most,
        **_spread("Network, all windows", measured.network_ms),
        "Cold start, from process start to answer": milliseconds(measured.cold_start_ms),
        "Peak memory": _mebibytes(measured.peak_memory_mib),
        "Counted queries": str(measured.queries),
        **({"Runtime": measured.runtime} if measured.runtime else {}),
        "Threads of the network": str(measured.threads),
        "Load average of the machine": plain(measured.load_average),
        "Processor": f"{measured.processor} ({flags})" if flags else measured.processor,
    }


def _spread(name: str, times: Percentiles) -> dict[str, str]:
    percentiles = {"p50": times.p50, "p90": times.p90, "p99": times.p99}
    return {f"{name}, {key}": milliseconds(value) for key, value in percentiles.items()}


def _known(value: N | None, written: Callable[[N], str]) -> Cell:
    return UNKNOWN if value is None else Cell(written(value))


def _mebibytes(value: float) -> str:
    return f"{three_digits(value)} MiB"
