"""Remarks: what the console says of how a training goes."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.markup import escape

from medkd.progress import console
from medkd.study import Study

NOTHING_LEARNED = 0.01  # Dice; guessing a structure's place at random does no better


def say_validation(name: str, step: int, figures: Mapping[str, float]) -> None:
    """Print the figure that is maximised, after ``step`` steps.

    Example:
        >>> say_validation("baseline", 250, {"dice": 0.4309, "nll": 0.2})
        baseline: step 250, validation dice 0.431
    """
    figure, value = next(iter(figures.items()))
    console.print(escape(f"{name}: step {step}, validation {figure} {value:.3f}"))


def made_or_kept(
    study: Study, stage: str, *, inputs: Mapping[str, Any], make: Callable[[Path], None]
) -> Path:
    """Return the folder of a stage, as ``study.stage`` does; say so if there was nothing to do."""
    is_there = study.is_complete(stage)
    folder = study.stage(stage, inputs=inputs, make=make)
    if is_there:
        console.print(escape(f"{stage}: made before, and kept"))
    return folder


def warn_if_nothing_was_learned(name: str, best: Mapping[str, float]) -> None:
    """Say so and what to try, where the best validation found no structure at all."""
    if best.get("dice", 1.0) < NOTHING_LEARNED:
        console.print(
            f"[bold yellow]warning:[/] {escape(name)}: learned nothing, its best validation dice "
            f"is {best['dice']:.3f}; look whether the labels lie on their structures, give it more "
            f"train.steps, or try another train.learning_rate or a larger preprocess.window"
        )
