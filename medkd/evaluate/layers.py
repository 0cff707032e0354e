"""Layers: one case in slices that a reader can leaf through, and what was said of each voxel.

A layer is one picture with its slices below each other. Marks differ in pattern as well as in
colour, so that layers can lie on top of each other and be told apart without seeing colours: the
reference is an outline, the teacher is hatched, the student is filled, disagreement is crossed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from nibabel import orientations
from PIL import Image, ImageColor
from scipy import ndimage

from medkd.evaluate.overlays import COLOURS, DIFFERS, display, stretch
from medkd.results import Layers
from medkd.types import Activation, Volume

MOST_SLICES = 24
LONGEST = 256  # pixels of a slice's longer side
MOST_BYTES = 4 * 2**20  # of a case's layers; what the bounds above come to with the noisiest image
MAGENTA = "#FF00FF"
UNSURE = "#FFF200"
STEPS = 16  # of uncertainty, from none to as unsure as can be
PITCH = 6  # pixels from line to line of a hatch
OPACITY = {"reference": 255, "teacher": 230, "student": 120, "disagreement": 230}


def draw_layers(
    folder: Path,
    image: Volume,
    masks: Mapping[str, np.ndarray],
    *,
    unsure: np.ndarray,
    name: str,
) -> Layers:
    """Write a JPEG of the image and a transparent PNG for each mark; together under 4 MiB.

    At most 24 axial slices are kept, evenly over those that any mask touches and the one where the
    reference is largest among them, of at most 256 pixels, in true proportions.

    Args:
        folder: where the pictures go; their names in the result are relative to it.
        image: on its own grid.
        masks: numbers of structures ``[*space]`` of ``reference``, ``teacher`` and ``student``, and
            1 where the latter two differ, ``disagreement``.
        unsure: uncertainty of the student, ``[*space]`` from 0 to 1.
        name: how the files' names begin.
    """
    picture, marks, aspect = _axial(image, {**masks, "uncertainty": unsure})
    chosen, start = _choose(marks)
    size = _size(picture.shape[1:3], aspect)
    shown = {key: marks[key][chosen] for key in masks}
    sheets = {
        "reference": _outline(_enlarge(shown["reference"], size)),
        "teacher": _hatched(_enlarge(shown["teacher"], size)),
        "student": _enlarge(shown["student"], size),
        "disagreement": _hatched(_enlarge(shown[DIFFERS], size), crossed=True),
    }
    folder.mkdir(parents=True, exist_ok=True)
    paths = {"image": f"{name}-image.jpg"}
    _grey(picture[chosen], size).save(folder / paths["image"], quality=85)
    for key, sheet in sheets.items():
        paths[key] = f"{name}-{key}.png"
        colours = [MAGENTA] if key == DIFFERS else COLOURS
        _save(folder / paths[key], _indexed(sheet, len(colours)), _opaque(colours, OPACITY[key]))
    paths["uncertainty"] = f"{name}-uncertainty.png"
    levels = np.rint(marks["uncertainty"][chosen].clip(0, 1) * STEPS).astype(np.uint8)
    _save(folder / paths["uncertainty"], _enlarge(levels, size), _fading())
    height, width = size
    return Layers(
        paths=paths,
        slices=tuple(int(level) + 1 for level in chosen),
        of_slices=len(picture),
        start=start,
        width=width,
        height=height,
    )


def uncertainty(
    probabilities: np.ndarray, activation: Activation = Activation.SOFTMAX
) -> np.ndarray:
    """Return the entropy of probabilities ``[classes, *space]`` as a share of the largest one.

    Of structures that may overlap, that of the least sure one.

    Example:
        >>> uncertainty(np.array([[1.0, 0.5], [0.0, 0.5]])).round(3).tolist()
        [0.0, 1.0]
    """
    if activation is Activation.SIGMOID:
        each = [uncertainty(np.stack([1 - p, p])) for p in probabilities]
        return np.max(each, axis=0)
    p = probabilities.astype(np.float64).clip(1e-12, 1)
    shares: np.ndarray = -(p * np.log(p)).sum(axis=0) / np.log(len(p))
    return shares.clip(0, 1)


def _axial(
    image: Volume, marks: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray], float]:
    """Return the slices of image and marks, first axis, and a pixel's height over its width."""
    if image.dims == 2:
        picture = display(np.moveaxis(image.array, 0, -1))
        return picture[None], {key: mark[None] for key, mark in marks.items()}, 1.0
    turn = orientations.ornt_transform(
        orientations.io_orientation(image.affine), orientations.axcodes2ornt("RAS")
    )

    def slices(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(np.rot90(orientations.apply_orientation(array, turn)), 2, 0)

    spacing = np.asarray(image.spacing_mm)[np.argsort(turn[:, 0])]
    picture = stretch(slices(image.array[0]))
    return picture, {k: slices(m) for k, m in marks.items()}, float(spacing[1] / spacing[0])


def _choose(marks: Mapping[str, np.ndarray]) -> tuple[np.ndarray, int]:
    """Return which slices are kept, and the place among them of the reference's largest."""
    area = (marks["reference"] > 0).sum(axis=(1, 2))
    touched = np.flatnonzero(
        sum((marks[key] > 0).any(axis=(1, 2)) for key in ("reference", "teacher", "student"))
    )
    ends = (touched[0], touched[-1]) if touched.size else (0, len(area) - 1)
    low, high = max(ends[0] - 1, 0), min(ends[1] + 1, len(area) - 1)
    largest = int(area.argmax()) if area.any() else int(low + high) // 2
    levels = np.unique(np.rint(np.linspace(low, high, MOST_SLICES)).astype(int))
    levels[np.abs(levels - largest).argmin()] = largest
    return levels, int(np.flatnonzero(levels == largest)[0])


def _size(shape: Sequence[int], aspect: float) -> tuple[int, int]:
    height, width = shape[0] * aspect, shape[1]
    scale = LONGEST / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _enlarge(sheet: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Repeat or drop pixels until each slice has its size."""
    rows, columns = (
        (np.arange(new) + 0.5) * old // new for new, old in zip(size, sheet.shape[1:], strict=True)
    )
    enlarged: np.ndarray = sheet[:, rows.astype(int)][:, :, columns.astype(int)]
    return enlarged


def _grey(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    slices = [
        Image.fromarray((each * 255).astype(np.uint8)).resize((size[1], size[0]))
        for each in picture
    ]
    return Image.fromarray(np.concatenate([np.asarray(each) for each in slices])).convert(
        "RGB" if picture.ndim == 4 else "L"
    )


def _outline(sheet: np.ndarray) -> np.ndarray:
    """Keep the two outermost pixels of each class."""
    flat = np.ones((1, 5, 5), bool)
    inner = ndimage.minimum_filter(sheet, footprint=flat) == ndimage.maximum_filter(
        sheet, footprint=flat
    )
    return np.where(inner, 0, sheet)


def _hatched(sheet: np.ndarray, *, crossed: bool = False) -> np.ndarray:
    rows, columns = np.ogrid[: sheet.shape[1], : sheet.shape[2]]
    lines = (rows + columns) % PITCH < 2
    if crossed:
        lines = lines | ((rows - columns) % PITCH < 2)
    return np.where(lines, sheet, 0)


def _indexed(sheet: np.ndarray, colours: int) -> np.ndarray:
    return np.where(sheet > 0, (sheet.astype(int) - 1) % colours + 1, 0).astype(np.uint8)


def _opaque(colours: Sequence[str], opacity: int) -> list[tuple[int, ...]]:
    return [(0, 0, 0, 0), *((*ImageColor.getrgb(colour), opacity) for colour in colours)]


def _fading() -> list[tuple[int, ...]]:
    colour = ImageColor.getrgb(UNSURE)
    return [(*colour, round(230 * level / STEPS)) for level in range(STEPS + 1)]


def _save(path: Path, sheet: np.ndarray, palette: Sequence[tuple[int, ...]]) -> None:
    picture = Image.fromarray(np.concatenate(list(sheet)))
    picture.putpalette([value for colour in palette for value in colour[:3]])
    picture.save(path, transparency=bytes(colour[3] for colour in palette), optimize=True)
