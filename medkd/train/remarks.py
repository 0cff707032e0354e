"""Remarks: what the console says of how a training goes."""

from collections.abc import Mapping

from rich.markup import escape

from medkd.progress import console

NOTHING_LEARNED = 0.01  # Dice; guessing a structure's place at random does no better


def say_validation(name: str, step: int, figures: Mapping[str, float]) -> None:
    """Print the figure that is maximised, after ``step`` steps.

    Example:
        >>> say_validation("baseline", 250, {"dice": 0.4309, "nll": 0.2})
        baseline: step 250, validation dice 0.431
    """
    figure, value = next(iter(figures.items()))
    console.print(escape(f"{name}: step {step}, validation {figure} {value:.3f}"))


def say_kept(name: str) -> None:
    """Print that there was nothing to do.

    Example:
        >>> say_kept("teacher/fold-0")
        teacher/fold-0: made before, and kept
    """
    console.print(escape(f"{name}: made before, and kept"))


def warn_if_nothing_was_learned(name: str, best: Mapping[str, float]) -> None:
    """Say so and what to try, where the best validation found no structure at all."""
    if best.get("dice", 1.0) < NOTHING_LEARNED:
        console.print(
            f"[bold yellow]warning:[/] {escape(name)}: learned nothing, its best validation dice "
            f"is {best['dice']:.3f}; look whether the labels lie on their structures, give it more "
            f"train.steps, or try another train.learning_rate or a larger preprocess.window"
        )
