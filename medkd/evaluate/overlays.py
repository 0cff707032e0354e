"""Overlays: one case in a picture: image, reference, teacher, student side by side."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from nibabel import orientations

from medkd.extras import require
from medkd.types import Volume

DIFFERS = "disagreement"
# Okabe and Ito 2008: told apart by colour-blind readers; after the sixth the colours repeat
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#F0E442", "#D55E00", "#CC79A7")


def draw_overlay(
    path: Path,
    image: Volume,
    masks: Mapping[str, np.ndarray],
    *,
    structures: Sequence[str],
    title: str,
) -> None:
    """Write a PNG with one panel for the image and one for each mask, and one for disagreement.

    In 3D the slice shown is the axial one where the reference is largest.

    Args:
        path: the file to write.
        image: on its own grid.
        masks: numbers of structures ``[*space]`` by panel name, ``reference`` among them; and
            ``DIFFERS``, 1 where teacher and student do.
        structures: names by number, from 1.
        title: shown above; no patient id.
    """
    require("matplotlib", extra="train")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture, cut, aspect = _slices(image, masks)
    differs = cut.pop(DIFFERS)
    panels = len(cut) + 2
    height, width = picture.shape[:2]
    figure = Figure(figsize=(2.6 * panels, 2.6 * height * aspect / width + 0.7), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels)
    shown: dict[str, np.ndarray | None] = {"image": None, **cut}
    for axis, (name, mask) in zip(axes, shown.items(), strict=False):
        axis.imshow(picture, cmap="gray", aspect=aspect)
        if mask is not None:
            axis.imshow(_colours(mask), aspect=aspect, interpolation="nearest")
        axis.set_title(name, fontsize=9)
    axes[-1].imshow(picture, cmap="gray", aspect=aspect)
    axes[-1].imshow(_colours(differs.astype(np.int64) * 5), aspect=aspect, interpolation="nearest")
    axes[-1].set_title("teacher ≠ student", fontsize=9)
    for axis in axes:
        axis.set_axis_off()
    figure.suptitle(title, fontsize=10)
    _legend(figure, structures)
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def draw_answers(
    path: Path,
    image: Volume,
    answers: Mapping[str, np.ndarray],
    *,
    classes: Sequence[str],
    title: str,
) -> None:
    """Write a PNG with the image (in 3D its middle slice) and the probabilities of each answer.

    Args:
        path: the file to write.
        image: on its own grid.
        answers: ``[classes]`` by name: ``reference``, ``teacher``, ``student``.
        classes: names by index.
        title: shown above; no patient id.
    """
    require("matplotlib", extra="train")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 3.4), dpi=100)
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    array = image.array if image.dims == 2 else image.array[..., image.shape[2] // 2]
    left.imshow(display(np.moveaxis(array, 0, -1)), cmap="gray")
    left.set_axis_off()
    height = 0.8 / len(answers)
    for number, (name, probabilities) in enumerate(answers.items()):
        places = np.arange(len(classes)) + number * height
        right.barh(places, probabilities, height=height, label=name, color=COLOURS[number])
    right.set_yticks(np.arange(len(classes)) + 0.4 - height / 2, classes, fontsize=8)
    right.invert_yaxis()
    right.set(xlim=(0, 1), xlabel="probability")
    right.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})


def _legend(figure: Any, structures: Sequence[str]) -> None:  # noqa: ANN401
    from matplotlib.patches import Patch

    handles = [
        Patch(color=COLOURS[index % len(COLOURS)], label=name)
        for index, name in enumerate(structures)
    ]
    figure.legend(
        handles=handles, loc="lower center", ncols=len(handles), fontsize=8, frameon=False
    )


def _slices(
    image: Volume, masks: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """Return a picture, the masks cut in the same place, and the pixel's height over its width."""
    if image.dims == 2:
        return display(np.moveaxis(image.array, 0, -1)), dict(masks), 1.0
    turn = orientations.ornt_transform(
        orientations.io_orientation(image.affine), orientations.axcodes2ornt("RAS")
    )
    ras = {name: orientations.apply_orientation(mask, turn) for name, mask in masks.items()}
    level = int((ras["reference"] > 0).sum(axis=(0, 1)).argmax())
    spacing = np.asarray(image.spacing_mm)[np.argsort(turn[:, 0])]
    picture = orientations.apply_orientation(image.array[0], turn)[:, :, level]
    cut = {name: np.rot90(mask[:, :, level]) for name, mask in ras.items()}
    return stretch(np.rot90(picture)), cut, float(spacing[1] / spacing[0])


def display(picture: np.ndarray) -> np.ndarray:
    """Return an image ``[height, width, channels]`` from black to white: grey, or its colours."""
    picture = stretch(picture)
    return picture if picture.shape[2] in {3, 4} else picture[..., 0]


def stretch(picture: np.ndarray) -> np.ndarray:
    """Return values from 0 to 1: the 0.5th to the 99.5th percentile."""
    picture = picture.astype(np.float64)
    low, high = np.percentile(picture, [0.5, 99.5])
    stretched: np.ndarray = np.clip((picture - low) / max(high - low, 1e-8), 0, 1)
    return stretched


def _colours(mask: np.ndarray) -> np.ndarray:
    from matplotlib.colors import to_rgba

    table = np.array([(0, 0, 0, 0), *(to_rgba(colour, alpha=0.55) for colour in COLOURS)])
    return table[np.where(mask > 0, (mask - 1) % len(COLOURS) + 1, 0)]
