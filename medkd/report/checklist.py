"""Checklist: the 35 items of a validation report, and who answers each: the report or a person.

The items follow TRIPOD+AI (Collins et al. 2024), CLAIM (Mongan et al. 2020), Metrics Reloaded
(Maier-Hein et al. 2024), FUTURE-AI, DECIDE-AI, the model card of the FDA's draft guidance of
January 2025, the FDA's guidance on predetermined change control plans, and CHAI's applied model
card. An item's number within its source is given for CLAIM alone; for the others the item's
numbering was not at hand in its original.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from medkd.report.wording import sentence
from medkd.results import Report
from medkd.statement import QUESTIONS, is_blank, required
from medkd.types import Task

TRIPOD, FDA, CHAI, PCCP = "TRIPOD+AI", "FDA model card (draft)", "CHAI model card", "FDA PCCP"
FUTURE, DECIDE, METRICS, CLAIM = "FUTURE-AI", "DECIDE-AI", "Metrics Reloaded", "CLAIM 2020"
Absence = Callable[[Report], str]  # why an item shows nothing; empty where it shows something


@dataclass(frozen=True)
class Item:
    """One item: where it comes from, what a person answers, and why the rest may be missing."""

    number: int
    title: str
    sources: tuple[str, ...]
    asks: tuple[str, ...] = ()
    absent: Absence | None = None


@dataclass(frozen=True)
class Answer:
    """What a person has said to one question; ``mood`` is "bad" where nobody has."""

    question: str
    text: str
    mood: str = ""


@dataclass(frozen=True)
class Entry:
    """An item as a report answers it."""

    item: Item
    answers: tuple[Answer, ...]
    absent: str


def _no(has: Callable[[Report], object], reason: str) -> Absence:
    return lambda report: "" if has(report) else reason


def _of_task(task: Task) -> Absence:
    return lambda report: "" if report.task is task else f"not applicable: this is {report.task}"


ITEMS = (
    Item(
        1,
        "Status, version and digests",
        (CHAI, FDA),
        ("release_stage", "contact"),
    ),
    Item(
        2,
        "Intended use, users and what is out of scope",
        (TRIPOD, f"{CLAIM} item 3", FDA, CHAI),
        ("intended_use", "users", "out_of_scope"),
    ),
    Item(
        3,
        "Hypotheses and criteria",
        (f"{CLAIM} item 5", TRIPOD),
        ("rationale",),
        _no(lambda r: r.gates, "not recorded: the config names no criteria"),
    ),
    Item(4, "Data sources", (TRIPOD, f"{CLAIM} item 7"), ("consent", "provenance")),
    Item(5, "Eligibility and flow of cases", (TRIPOD, f"{CLAIM} item 33"), ("eligibility",)),
    Item(6, "De-identification", ("CLAIM 2020",), ("deidentification", "deidentification_by")),
    Item(7, "Preprocessing", ("CLAIM 2020",)),
    Item(
        8,
        "Reference standard",
        ("CLAIM 2020", TRIPOD, FDA),
        ("reference_standard",),
    ),
    Item(
        9,
        "Partitions and proof against leakage",
        (TRIPOD, f"{CLAIM} item 20", FDA),
        ("site_independence",),
    ),
    Item(10, "How often the test split was opened", (FDA, PCCP), ("test_openings",)),
    Item(11, "Sample size", (TRIPOD, "CLAIM 2020"), ("sample_size",)),
    Item(
        12,
        "Characteristics of the data",
        (TRIPOD, f"{CLAIM} item 34"),
        ("representativeness",),
        _no(
            lambda r: r.subgroups or r.card,
            "not recorded: there is no data card and the datalist’s attributes are not "  # noqa: RUF001
            "named in evaluate.subgroups",
        ),
    ),
    Item(13, "Teacher and student", (TRIPOD, "CLAIM 2020", FDA), ("licence",)),
    Item(14, "Training and distillation", (f"{CLAIM} items 25 to 27", TRIPOD)),
    Item(15, "How the model was selected", ("CLAIM 2020",)),
    Item(16, "Accuracy with intervals", (TRIPOD, "CLAIM 2020", METRICS), ("tolerance",)),
    Item(17, "Definitions of the figures", (METRICS,)),
    Item(18, "Failures and worst cases", (f"{CLAIM} item 37",), ("worst_cases",)),
    Item(
        19,
        "Student against teacher and baseline",
        ("medkd",),
        (),
        _no(lambda r: r.comparisons, "not recorded: roles were not compared"),
    ),
    Item(
        20,
        "Operating point",
        (TRIPOD, "CLAIM 2020"),
        ("operating_point",),
        _of_task(Task.CLASSIFICATION),
    ),
    Item(21, "Calibration", (TRIPOD,)),
    Item(
        22,
        "Uncertainty",
        ("CLAIM 2020", FDA),
        ("uncertainty_use",),
        _no(lambda r: any(r.promises.values()), "not recorded: no promise was calibrated"),
    ),
    Item(
        23,
        "Subgroups and fairness",
        (TRIPOD, FUTURE, FDA, CHAI),
        ("subgroups",),
        _no(
            lambda r: r.subgroups,
            "not recorded: evaluate.subgroups names no attribute of the cases",
        ),
    ),
    Item(
        24,
        "Robustness",
        (FUTURE, "CLAIM 2020", FDA),
        ("stress_relevance",),
        _no(lambda r: r.stress, "not recorded: evaluate.stress_cases is 0"),
    ),
    Item(
        25,
        "External test",
        (TRIPOD, "CLAIM 2020"),
        ("external_test",),
        lambda _: (
            "not recorded: every figure here is of the study’s own test split"  # noqa: RUF001
        ),
    ),
    Item(
        26,
        "Agreement of the exported networks",
        (FDA,),
        (),
        _no(lambda r: r.variants, "not recorded: no release was compared with the trained network"),
    ),
    Item(
        27,
        "Latency, memory and size",
        (CHAI,),
        ("target_device",),
        _no(
            lambda r: any(result.latency for result in r.roles.values()),
            "not recorded: latency was not measured",
        ),
    ),
    Item(
        28,
        "Quality control of the input",
        (TRIPOD, DECIDE),
        ("on_rejection",),
        _no(lambda r: r.guard, "not recorded: the releases have no input guard"),
    ),
    Item(29, "Known limits and risks", (TRIPOD, CHAI), ("known_limits", "hazards")),
    Item(30, "Human factors and training of users", (DECIDE, FDA), ("human_factors",)),
    Item(31, "Plan for changes", (PCCP,), ("change_plan",)),
    Item(32, "Monitoring", (FDA, FUTURE, CHAI), ("monitoring",)),
    Item(33, "Security and software", (FDA, CHAI), ("security",)),
    Item(34, "Reproducibility and access", (TRIPOD, f"{CLAIM} item 41"), ("access",)),
    Item(
        35,
        "Funding, interests and signature",
        (TRIPOD, CHAI),
        ("funding", "interests", "signed_by", "signed_role", "signed_on", "decision"),
    ),
)


def entries(report: Report) -> dict[int, Entry]:
    """Return every item, with what people have said and why the rest may be missing."""
    needed = required(report)
    return {
        item.number: Entry(
            item,
            tuple(
                _answer(report.statement, name)
                for name in item.asks
                if name in needed or not is_blank(report.statement.get(name, ""))
            ),
            item.absent(report) if item.absent else "",
        )
        for item in ITEMS
    }


def _answer(statement: Mapping[str, str], name: str) -> Answer:
    text, question = statement.get(name, ""), QUESTIONS[name]
    if is_blank(text):
        return Answer(question, f"not filled in ({sentence(name).lower()})", mood="bad")
    return Answer(question, text)
