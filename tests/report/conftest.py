"""Two whole reports as a study writes them, and a folder with their pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from medkd.report.build import draw
from medkd.results import (
    Agreement,
    CaseScores,
    Comparison,
    GateResult,
    GuardResult,
    Interval,
    Latency,
    Layers,
    Overlay,
    Part,
    Percentiles,
    Promise,
    Reliability,
    Report,
    RoleResult,
    StressCurve,
    Verdict,
)
from medkd.types import Activation, Role, Task

CASES, PATIENTS = 52, 39
SKILL = {Role.TEACHER: 0.893, Role.STUDENT: 0.884, Role.BASELINE: 0.871}
PARAMETERS = {Role.TEACHER: 5_746_512, Role.STUDENT: 521_388, Role.BASELINE: 521_388}
NETWORK_MS = {Role.TEACHER: 231.7, Role.STUDENT: 24.13, Role.BASELINE: 24.58}
STRUCTURES = ("anterior", "posterior")
DISEASES = ("normal", "pneumonia")
STRESSES = (
    ("noise", "standard deviations of the image", (0.05, 0.1, 0.2, 0.4)),
    ("blur", "voxels (sigma)", (0.5, 1.0, 1.5, 2.0)),
    ("missing slices", "share of all", (0.05, 0.1, 0.2, 0.3)),
    ("rotation", "degrees", (5.0, 10.0, 20.0, 30.0)),
    ("gamma", "exponent", (0.75, 1.5, 2.0, 0.5)),
)
LEAVES = Layers(
    paths={"image": "overlays/image.jpg", "student": "overlays/student.png"},
    slices=(3, 5, 7),
    of_slices=9,
    start=1,
    width=40,
    height=40,
)
GATES = [
    {"figure": "dice", "of": "student", "minus": "teacher", "at_least": -0.02},
    {"figure": "dice", "of": "student", "minus": "baseline", "at_least": -0.005},
]


@pytest.fixture(scope="session")
def segmentation() -> Report:
    """Two structures, three roles, latency, pictures, one failed case."""
    roles = {role: _segmenter(role) for role in Role}
    return Report(
        study="hippocampus",
        study_key="study-3f9a1c20",
        task=Task.SEGMENTATION,
        classes=("background", *STRUCTURES),
        verdict=Verdict.READY,
        reasons=("all 3 gates passed",),
        roles=roles,
        comparisons=_comparisons(roles),
        gates=(
            GateResult(gate="student dice >= 0.84", judged=0.87912, passed=True),
            GateResult(gate="student dice - teacher dice >= -0.02", judged=-0.01174, passed=True),
            GateResult(
                gate="student parameters / teacher parameters <= 0.1", judged=0.090731, passed=True
            ),
        ),
        split={
            "train": Part(cases=182, patients=136, digest="a0c1d2e3f4a5b6c7"),
            "validation": Part(cases=26, patients=20, digest="b1c2d3e4f5a6b7c8"),
            "test": Part(cases=CASES, patients=PATIENTS, digest="c2d3e4f5a6b7c8d9"),
        },
        leakage={
            "patients in more than one part": 0,
            "identical images in more than one part": 0,
        },
        test_openings=1,
        overlays=tuple(
            Overlay(
                case=f"case-{i:08x}",
                rank=rank,
                figure="dice",
                value=dice,
                path=f"overlays/{i}.png",
                layers=LEAVES if rank == "best" else None,
            )
            for i, (rank, dice) in enumerate(
                [("worst 1", 0.4312), ("worst 2", 0.7121), ("median", 0.8893), ("best", 0.9312)]
            )
        ),
        promises={
            role: tuple(_promise(name, skill) for name in STRUCTURES)
            for role, skill in SKILL.items()
        },
        stress=tuple(
            _stress(name, unit, strengths, seed)
            for seed, (name, unit, strengths) in enumerate(STRESSES)
        ),
        guard=GuardResult(
            passed=_spread(0.92), limit=1.74, foreign={"noise alone": 1.0, "axes swapped": 0.85}
        ),
        config=_config("hippocampus", {"nsd_tolerance_mm": 1.0, "dice_failure": 0.5}, GATES),
        card={
            "name": "Medical Segmentation Decathlon, Task04 Hippocampus",
            "licence": "CC BY-SA 4.0",
            "source": "http://medicaldecathlon.com",
            "intended_use": "",
            "sites": ["Vanderbilt University Medical Center"],
            "population": {"patients": 195, "conditions": ["healthy", "psychosis"]},
            "known_gaps": ["one site", "one scanner"],
        },
        environment={
            "medkd": "0.1.0",
            "python": "3.11.2",
            "processor": "Intel(R) Xeon(R) Processor @ 2.10GHz",
            "cores": 2,
            "memory_gib": 7.8,
            "packages": {"numpy": "2.4.6", "onnxruntime": "1.32.0"},
        },
        digests={"data set": "d" * 16, "release student": "9f" * 32},
        notes=("Soft targets are in fold: the teacher was trained on the cases it softened.",),
    )


@pytest.fixture(scope="session")
def classification(segmentation) -> Report:
    """Two classes, three roles, no pictures, no latency of the baseline."""
    roles = {role: _classifier(role) for role in Role}
    return segmentation.model_copy(
        update={
            "study": "pneumonia",
            "task": Task.CLASSIFICATION,
            "classes": DISEASES,
            "roles": roles,
            "comparisons": (),
            "overlays": (),
            "promises": {role: (_promise(None, skill),) for role, skill in SKILL.items()},
            "stress": (),
            "guard": None,
            "card": None,
            "config": _config("pneumonia", {"specificity": 0.95}, []),
        }
    )


@pytest.fixture(scope="session")
def findings(classification) -> Report:
    """Two findings that may come together."""
    return classification.model_copy(
        update={
            "study": "chest",
            "activation": Activation.SIGMOID,
            "roles": {role: _finder(role) for role in Role},
            "promises": {
                role: tuple(_promise(name, skill) for name in DISEASES)
                for role, skill in SKILL.items()
            },
        }
    )


@pytest.fixture(scope="session")
def report(request):
    """One of the three, by a parameter of the test: its task."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def page(report, study_folder):
    """The page of ``report``."""
    return draw(report, study_folder=study_folder)


@pytest.fixture(scope="session")
def study_folder(segmentation, tmp_path_factory):
    """Every picture of the report but the second."""
    folder = tmp_path_factory.mktemp("study")
    (folder / "overlays").mkdir()
    for index, overlay in enumerate(segmentation.overlays):
        if index != 1:
            (folder / overlay.path).write_bytes(_png(index))
    sheet = Image.fromarray(np.arange(120 * 40, dtype=np.uint8).reshape(120, 40))
    sheet.save(folder / LEAVES.paths["image"])
    sheet.save(folder / LEAVES.paths["student"])
    return folder


def _png(seed):
    noise = np.random.default_rng(seed).integers(0, 90, (130, 130), np.uint8)
    content = io.BytesIO()
    Image.fromarray(np.hstack([noise] * 5)).save(content, "PNG")
    return content.getvalue()


def _segmenter(role: Role) -> RoleResult:
    rng = np.random.default_rng(7)  # the same cases are hard for every role
    cases = tuple(_segmented(rng, i, SKILL[role]) for i in range(CASES))
    figures = {key: _interval([c.figures[key] for c in cases]) for key in cases[0].figures}
    calibration = {"ece": 0.0123, "brier": 0.0312, "nll": 0.0581}
    headline = {key: figures[key] for key in ("dice", "nsd", "hd95_mm")}
    return RoleResult(
        headline=headline | {key: _spread(value) for key, value in calibration.items()},
        per_class={key: value for key, value in figures.items() if "/" in key},
        cases=cases,
        agreement={
            name: Agreement(bias=-0.012, low=-0.21, high=0.186, cases=CASES) for name in STRUCTURES
        },
        failures={"misses": 1, "false_alarms": 0, "failures": 1},
        **_model(role),
    )


def _segmented(rng: np.random.Generator, index: int, skill: float) -> CaseScores:
    figures: dict[str, float] = {}
    for name in STRUCTURES:
        dice = float(np.clip(skill - 0.01 + rng.normal(0, 0.022), 0, 1))
        figures[f"dice/{name}"] = dice
        figures[f"nsd/{name}"] = min(1.0, dice + 0.081)
        figures[f"hd95_mm/{name}"] = 1 + 8 * (1 - dice)
    missed = index == 13
    if missed:
        figures |= {"dice/posterior": 0.0, "nsd/posterior": 0.0, "hd95_mm/posterior": 71.4}
    for key in ("dice", "nsd", "hd95_mm"):
        figures[key] = float(np.mean([figures[f"{key}/{name}"] for name in STRUCTURES]))
    return CaseScores(
        case=f"case-{index * 2654435761 % 2**32:08x}",
        patient=f"patient-{index % PATIENTS * 40503 % 65536:08x}",
        volumes_ml=dict.fromkeys(STRUCTURES, (1.2 + 0.01 * index + 0.1 * (-1) ** index, 1.2)),
        figures=figures,
        misses=("posterior",) if missed else (),
    )


def _classifier(role: Role) -> RoleResult:
    rng = np.random.default_rng(3)
    skill = SKILL[role]
    cases = tuple(
        CaseScores(
            case=f"case-{i:08x}",
            patient=f"patient-{i % PATIENTS:08x}",
            figures={"correct": 1.0, "probability_of_truth": float(rng.beta(8, 1.4))},
        )
        for i in range(CASES)
    )
    figures = ("auroc", "balanced_accuracy", "average_precision", "sensitivity")
    headline = {key: _spread(skill + i / 100) for i, key in enumerate(figures)}
    per_class = {
        f"{key}/{name}": _spread(skill)
        for key in ("sensitivity", "specificity")
        for name in DISEASES
    }
    per_class["sensitivity/normal"] = Interval(value=float("nan"), cases=0, patients=0)
    model = _model(role) | ({"latency": None} if role is Role.BASELINE else {})
    return RoleResult(
        headline=headline | {"ece": _spread(0.0412), "brier": _spread(0.1), "nll": _spread(0.2)},
        per_class=per_class,
        cases=cases,
        failures={"failures": 5},
        confusion=((11, 2), (3, 34)),
        **model,
    )


def _finder(role: Role) -> RoleResult:
    found = _classifier(role)
    figures = ("auroc", "average_precision", "sensitivity", "specificity", "ece")
    first, *others = found.cases
    missed = first.model_copy(
        update={"figures": first.figures | {"correct": 0.0}, "misses": (DISEASES[1],)}
    )
    return found.model_copy(
        update={
            "headline": {k: v for k, v in found.headline.items() if k != "balanced_accuracy"},
            "per_class": {f"{f}/{d}": _spread(SKILL[role]) for f in figures for d in DISEASES},
            "cases": (missed, *others),
            "failures": {"misses": 1, "false_alarms": 0, "failures": 1},
            "confusion": (),
        }
    )


def _model(role: Role) -> dict:
    large = role is Role.TEACHER
    return {
        "role": role,
        "model": {"name": "dynunet" if large else "plain_unet", "filters": [16, 32, 64, 128]},
        "parameters": PARAMETERS[role],
        "macs": 11_312_000_000 if large else 402_300_000,
        "size_mib": 21.94 if large else 1.993,
        "temperature": 1.1342,
        "reliability": Reliability(
            confidence=(None,) * 7 + tuple(0.5 + i / 15 for i in range(8)),
            accuracy=(None,) * 7 + tuple(0.46 + i / 14.9 for i in range(8)),
            count=(0,) * 7 + tuple(40 * 3**i for i in range(8)),
        ),
        "latency": _latency(NETWORK_MS[role]),
    }


def _latency(network: float) -> Latency:
    stages = {"read": 6.21, "preprocess": 3.87, "postprocess": 2.94, "write": 4.08}
    whole = network + sum(stages.values())
    names = ("read", "preprocess", "network", "postprocess", "write")
    laps = {name: {**stages, "network": network}[name] for name in names}
    return Latency(
        queries=64,
        threads=2,
        file_to_file_ms=Percentiles(p50=whole, p90=whole * 1.08, p99=whole * 1.31),
        network_ms=Percentiles(p50=network, p90=network * 1.06, p99=network * 1.2),
        stages_ms=laps,
        cold_start_ms=network + 912.4,
        cold_stages_ms={"start": 871.3, **laps, "network": network + 24.0},
        peak_memory_mib=240 + network,
        processor="Intel(R) Xeon(R) Processor @ 2.10GHz",
        load_average=0.42,
    )


def _promise(structure: str | None, skill: float) -> Promise:
    return Promise(
        of=structure,
        promised=0.9,
        kept=_spread(skill + 0.021),
        price=_spread(1.21 if structure else 1.07),
        threshold=0.413,
        calibrated_on=26,
    )


def _stress(name: str, unit: str, strengths: tuple, seed: int) -> StressCurve:
    loss = 0.03 + 0.04 * seed
    return StressCurve(
        stress=name,
        unit=unit,
        figure="dice",
        strengths=strengths,
        untouched={role: _spread(skill) for role, skill in SKILL.items()},
        suffered={
            role: tuple(_spread(skill - loss * (i + 1)) for i in range(len(strengths)))
            for role, skill in SKILL.items()
        },
        flagged=tuple(0.25 * (i + 1) for i in range(len(strengths))),
    )


def _comparisons(roles) -> tuple[Comparison, ...]:
    pairs = (
        (Role.STUDENT, Role.TEACHER),
        (Role.STUDENT, Role.BASELINE),
        (Role.BASELINE, Role.TEACHER),
    )
    return tuple(
        Comparison(
            figure=key,
            of=of,
            minus=minus,
            difference=_interval(
                [
                    a.figures[key] - b.figures[key]
                    for a, b in zip(roles[of].cases, roles[minus].cases, strict=True)
                ]
            ),
        )
        for of, minus in pairs
        for key in roles[of].cases[0].figures
    )


def _interval(values) -> Interval:
    mean, error = float(np.mean(values)), float(np.std(values)) / len(values) ** 0.5
    half = 1.96 * error + 0.002
    return Interval(value=mean, low=mean - half, high=mean + half, cases=CASES, patients=PATIENTS)


def _spread(value: float) -> Interval:
    return Interval(
        value=value, low=value * 0.95, high=value * 1.04, cases=CASES, patients=PATIENTS
    )


def _config(name: str, evaluate: dict, gates: list) -> dict:
    return {
        "study": {"name": name, "seed": 0},
        "task": "segmentation",
        "data": {"labels": {"anterior": 1, "posterior": 2}, "split": {"test": 0.2, "seed": 0}},
        "preprocess": {"orientation": "RAS", "spacing_mm": [1.0, 1.0, 1.0], "size": None},
        "augment": {"rotate_degrees": 15.0, "transpose": False},
        "teacher": {"model": {"name": "dynunet"}, "train": {"steps": 2600, "precision": "auto"}},
        "student": {"model": {"name": "plain_unet"}, "train": {"steps": 6000}},
        "distill": {"losses": [{"name": "pixel_kd", "weight": 1.0, "temperature": 2}]},
        "evaluate": {"bootstrap": 2000, "overlays": 3, **evaluate},
        "latency": {"queries": 64, "threads": 2},
        "gates": gates,
    }
