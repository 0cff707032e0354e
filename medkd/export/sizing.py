"""Sizing: the widest student that answers in time on this machine.

Operations say little about time on a CPU: the candidates are exported and answer for real images,
file to file, through the runtime that will serve them. Weights do not change the time, so they are
random.
"""

import inspect
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from medkd.config import Config, dump
from medkd.data.check import Cohort
from medkd.data.reading import from_small_to_large, images_alone
from medkd.device.latency import measure_latency
from medkd.errors import ConfigError
from medkd.export.release import write_release
from medkd.models.cost import parameters
from medkd.models.zoo import MODELS, build_for
from medkd.options import BudgetOptions, NamedOptions
from medkd.progress import progress
from medkd.results import CURVE, SizingPoint
from medkd.study import Study, write_atomic

FACTORS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0, 5.6, 8.0)  # of the config's widths
BLOCK = 8  # channels that a CPU computes at once
BLOCKS = {"vit": 64}  # of one head
WIDTHS = ("channels", "features", "filters", "widths", "init_filters", "decoder_channels", "width")
VARIANTS = {"efficientnet": ("variant", tuple(f"efficientnet-b{i}" for i in range(8)))}
IMAGES, QUERIES = 4, 16


def size_student(study: Study, cohort: Cohort) -> Study:
    """Return the study with the widest student within ``student.budget``; as it is without one.

    The curve of what was measured is kept in the study's folder ``sizing``.

    Raises:
        ConfigError: the network has no width, or even the narrowest is too slow.
    """
    config, budget = study.config, study.config.student.budget
    if budget is None:
        return study
    inputs = {
        "budget": budget.model_dump(),
        "model": config.student.model.model_dump(),
        "preprocess": config.preprocess.model_dump(),
        "classes": config.classes,
    }

    def make(folder: Path) -> None:
        timed = from_small_to_large(cohort.of(cohort.split.train), IMAGES)
        with images_alone(timed, config) as images:
            curve = list(_measured(config, budget, images))
        fitting = [i for i, p in enumerate(curve) if p.latency_p90_ms <= budget.latency_ms]
        if not fitting:
            raise ConfigError(
                f"student.budget: the narrowest {config.student.model.name} takes "
                f"{curve[0].latency_p90_ms:.1f} ms on {budget.threads} threads, the budget is "
                f"{budget.latency_ms:g} ms; raise it, or choose another network, spacing or window"
            )
        curve[fitting[-1]] = curve[fitting[-1]].model_copy(update={"chosen": True})
        write_atomic(folder / CURVE, json.dumps([p.model_dump() for p in curve], indent=1))

    measured = json.loads((study.stage("sizing", inputs=inputs, make=make) / CURVE).read_text())
    (chosen,) = (point for point in measured if point["chosen"])
    model = NamedOptions.model_validate(chosen["model"])
    student = config.student.model_copy(update={"model": model})
    sized = Study(config.model_copy(update={"student": student}), study.config_path)
    write_atomic(study.folder / "config.yaml", dump(sized.config))
    return sized


def candidates(model: NamedOptions, config: Config) -> list[NamedOptions]:
    """Return the network at rising widths, in blocks that suit a CPU.

    Example:
        ``channels: [8, 16]`` at factor 1.4 has ``channels: [16, 24]``.

    Raises:
        ConfigError: the network has no width.
    """
    if model.name in VARIANTS:
        option, names = VARIANTS[model.name]
        return [_with(model, **{option: name}) for name in names]
    factory = MODELS[config.task].factory(model.name, model.options)
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(factory).parameters.items()
        if name in WIDTHS
    }
    if not defaults:
        raise ConfigError(f"student.budget: {model.name} has no width that could be changed")
    found: list[NamedOptions] = []
    block = BLOCKS.get(model.name, BLOCK)
    for factor in FACTORS:
        widths = {n: _scaled(model.options.get(n, d), factor, block) for n, d in defaults.items()}
        if (wider := _with(model, **widths)) not in found:
            found.append(wider)
    return found


def _measured(
    config: Config, budget: BudgetOptions, images: Sequence[Sequence[Path]]
) -> Iterator[SizingPoint]:
    """Measure ever wider networks until one takes more than the budget, and one more."""
    too_slow = 0
    offered = candidates(config.student.model, config)
    for model in progress(offered, "size the student", total=len(offered)):
        network = build_for(config, model).eval()
        with tempfile.TemporaryDirectory() as folder:
            write_release(Path(folder), network, config, role="student", model=model.model_dump())
            latency = measure_latency(Path(folder), images, queries=QUERIES, threads=budget.threads)
        yield SizingPoint(
            model=model.model_dump(),
            parameters=parameters(network),
            latency_p50_ms=latency.file_to_file_ms.p50,
            latency_p90_ms=latency.file_to_file_ms.p90,
            network_ms=latency.network_ms.p50,
        )
        too_slow += latency.file_to_file_ms.p90 > budget.latency_ms
        if too_slow == 2:
            return


def _scaled(width: int | Sequence[int], factor: float, block: int) -> int | list[int]:
    if isinstance(width, int):
        return max(block, block * round(width * factor / block)) if factor != 1 else width
    return [int(_scaled(one, factor, block)) for one in width]  # type: ignore[arg-type]


def _with(model: NamedOptions, **options: object) -> NamedOptions:
    changed: Mapping[str, object] = model.model_dump() | options
    return NamedOptions.model_validate(changed)
