"""Limits: what the results themselves say against a model, and what a reviewer would ask next."""

from collections.abc import Iterator

from medkd.report.margins import may_lose
from medkd.report.robustness import Fall, first_fall
from medkd.report.wording import ROLES, bounds, in_order, number, plain, sentence, title
from medkd.results import CaseScores, Comparison, Report
from medkd.types import Role, Task


def limits(report: Report) -> list[str]:
    """Return every failed or open criterion, group that is too small, and test that is missing."""
    return [
        *_gates(report),
        *_failures(report),
        *_groups(report),
        *_falls(report),
        *_untested(report),
    ]


def questions(report: Report) -> list[tuple[str, str]]:
    """Return the questions that the figures raise, each with what this report can say to it."""
    return [
        ("Is the student as good as its teacher?", _against(report, Role.TEACHER)),
        (
            "Did distillation help, or would labels alone have done?",
            _against(report, Role.BASELINE),
        ),
        ("Where the student fails, did the teacher fail too?", _shared_failures(report)),
        ("Could the figures be luck of one training run?", _seeds()),
        ("Are there test patients enough?", _enough(report)),
        ("Does it hold at another site or scanner?", _elsewhere(report)),
        ("Is the reference standard right?", _reference(report)),
        ("Does it bear worse images as well as its teacher?", _robust(report)),
        ("Is it as fast on our device?", _speed(report)),
    ]


def _gates(report: Report) -> Iterator[str]:
    for gate in report.gates:
        if gate.passed is None:
            yield f"Not judged: {gate.gate} ({gate.reason})."
        elif not gate.passed:
            yield f"Not met: {gate.gate}."


def _failures(report: Report) -> Iterator[str]:
    student = report.roles.get(Role.STUDENT)
    for kind, count in (student.failures if student else {}).items():
        if count:
            yield f"The student’s {kind.replace('_', ' ')} on the test split: {count}."  # noqa: RUF001


def _groups(report: Report) -> Iterator[str]:
    for group in report.subgroups:
        if group.difference is None:
            yield (
                f"{group.attribute} {group.group}: {group.patients} patients, too few to estimate "
                "anything."
            )


def _falls(report: Report) -> Iterator[str]:
    for fall in _falls_of(report, Role.STUDENT).values():
        if fall is None:
            continue
        caught = (
            ""
            if fall.flagged is None
            else f", and the guard flags {100 * fall.flagged:.0f} % of such images"
        )
        yield (
            f"{sentence(fall.stress)}: from {plain(fall.strength)} {fall.unit} on, the student "
            f"loses more than the margin{caught} (item 24)."
        )


def _falls_of(report: Report, role: Role) -> dict[str, Fall | None]:
    """Where a role first loses more than the margin, by stress; empty where there is no margin."""
    margin = may_lose(report, report.stress[0].figure) if report.stress else None
    if margin is None:
        return {}
    return {
        curve.stress: first_fall(curve, role, margin=margin)
        for curve in report.stress
        if role in curve.suffered
    }


def _robust(report: Report) -> str:
    own, teachers = _falls_of(report, Role.STUDENT), _falls_of(report, Role.TEACHER)
    if not own or not teachers:
        return "The report does not tell: it needs worse images and a margin against the teacher."
    figure = report.stress[0].figure
    margin = f"the margin ({plain(may_lose(report, figure) or 0)} of {title(figure)[:-2]})"
    earlier = [stress for stress, fall in own.items() if _is_earlier(fall, teachers[stress])]
    if not earlier:
        return f"Yes: no stress costs the student more than {margin} at a milder strength."
    return f"Not always: it loses more than {margin} at milder strengths of {', '.join(earlier)}."


def _is_earlier(fall: Fall | None, other: Fall | None) -> bool:
    return fall is not None and (other is None or fall.place < other.place)


def _untested(report: Report) -> Iterator[str]:
    yield "No patient of another institution has been tested."
    yield "Nobody has been seen using it."
    if not report.subgroups:
        yield "No group of patients was judged apart."
    if not report.stress:
        yield "Images worse than those of the test split were not tried."
    if not report.guard:
        yield "Nothing warns of an image that is unlike those it was made for."
    yield from (
        f"{ROLES[role]}: latency was not measured."
        for role, result in report.roles.items()
        if result.latency is None
    )


def _against(report: Report, other: Role) -> str:
    compared = {c.figure: c for c in report.comparisons if (c.of, c.minus) == (Role.STUDENT, other)}
    if not compared:
        return "They were not compared."
    whole_first = sorted(compared, key=lambda figure: "/" in figure)
    found = compared[in_order(whole_first)[0]]
    least = report.config.get("evaluate", {}).get("least_patients", 0)
    return f"{_difference(found)} {_reading(found, least=least)} Item 19 has every figure."


def _difference(found: Comparison) -> str:
    value = number(found.difference.value, key=found.figure, signed=True)
    ends = bounds(found.difference, key=found.figure, signed=True)
    pair = f"student minus {ROLES[found.minus].lower()}"
    return f"{title(found.figure)[:-2]}, {pair}: {f'{value} {ends}'.strip()}."


def _reading(found: Comparison, *, least: int) -> str:
    low, high = found.difference.low, found.difference.high
    if low is None or high is None:
        return "It has no interval."
    if found.difference.patients < least:
        return (
            f"An interval of {found.difference.patients} patients covers less than it says "
            f"(criteria ask for at least {least}): nothing follows from it."
        )
    if low <= 0 <= high:
        return "The interval holds 0: these cases show no difference."
    return "The interval does not hold 0: the difference is more than chance."


def _shared_failures(report: Report) -> str:
    failed = {
        role: {case.case for case in result.cases if _is_failure(case)}
        for role, result in report.roles.items()
    }
    if Role.TEACHER not in failed or Role.STUDENT not in failed:
        return "The report does not tell."
    is_map = report.task is Task.SEGMENTATION
    part = "structure" if is_map else "finding"
    may_slip = is_map or report.has_findings
    done = f"missed or invented a {part}" if may_slip else "named a wrong class"
    if not failed[Role.STUDENT]:
        return f"The student nowhere {done}; its least good cases are in item 18."
    alone = failed[Role.STUDENT] - failed[Role.TEACHER]
    if not alone:
        return f"Yes: the student {done} only where its teacher did as well."
    return f"Not always: the student alone {done} in {', '.join(sorted(alone))}."


def _is_failure(case: CaseScores) -> bool:
    return bool(case.misses or case.false_alarms or case.figures.get("correct") == 0)


def _seeds() -> str:
    return (
        "The intervals hold the chance of these patients, not that of the training: each network "
        "was trained once. pipelines/ablation.py trains several seeds and shows their spread."
    )


def _enough(report: Report) -> str:
    test = report.split.get("test")
    least = report.config.get("evaluate", {}).get("least_patients")
    if test is None or least is None:
        return "The report does not tell."
    return (
        f"The test split holds {test.patients} patients; criteria ask for at least {least}. The "
        "intervals say what that many can show; why it is enough is for item 11."
    )


def _elsewhere(report: Report) -> str:
    stressed = "Item 24 shows how it bears worse images" if report.stress else "Nothing here tells"
    return f"{stressed}; no patient of another institution was tested (item 25)."


def _reference(report: Report) -> str:
    del report
    return (
        "One reference per case was given, so agreement between readers is not known. A model "
        "cannot be shown to be better than the reference it is judged by."
    )


def _speed(report: Report) -> str:
    found = next((r.latency for r in report.roles.values() if r.latency), None)
    if found is None:
        return "Latency was not measured."
    return (
        f"Times are of {found.processor or 'a processor that does not tell its name'} with "
        f"{found.threads} threads; medkd bench measures the releases on any other."
    )
