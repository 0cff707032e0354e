"""Stack: slices in their order on a regular grid, or the reason why they are none.

Readers differ silently over a missing slice, a slice that is there twice and a tilted gantry. Here
each of them is refused with the positions, and what may be mended is mended only where the config
says so.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medkd.data.dicom.frames import FINEST_MM, TOLD_APART_BY, Frame, Place
from medkd.errors import DataError

SAME_DIRECTION = 1e-3  # largest difference of two unit vectors' components
ROUNDED_MM = 0.1  # positions are often written in tenths: both ends and a slice between may be off
SAME_PLACE = 0.01  # of the usual gap: two slices of one place
SAME_PLACE_MM = 1e-3  # and where most gaps are such: positions are rounded
OFF_TOLD = 0.02  # by which a spacing that headers tell may be off
MOST_PLACES = 4  # for each slice that is there; what lacks more is no series any more
SHOWN = 12  # positions in a message


@dataclass(frozen=True)
class Stack:
    """Slices on a regular grid.

    Attributes:
        frames: by place on the grid; None where a slice is missing.
        first_mm: where the first slice lies (LPS), as its frame's position is.
        step_mm: ``[3]`` from one slice to the next.
        place: of the first frame, for axes and spacing.
    """

    frames: tuple[Frame | None, ...]
    first_mm: np.ndarray
    step_mm: np.ndarray
    place: Place

    @property
    def missing(self) -> list[int]:
        """Numbers of the places without a slice."""
        return [number for number, frame in enumerate(self.frames) if frame is None]

    @property
    def affine(self) -> np.ndarray:
        """``[4, 4]``: index of slice, row and column to LPS millimetres."""
        between_rows, between_columns = self.place.spacing_mm
        affine = np.eye(4)
        affine[:3, 0] = self.step_mm
        affine[:3, 1] = self.place.axes[1] * between_rows
        affine[:3, 2] = self.place.axes[0] * between_columns
        affine[:3, 3] = self.first_mm
        return affine

    @property
    def tilt_degrees(self) -> float:
        """Angle between the way from slice to slice and the slices' normal."""
        along = abs(_normal(self.place) @ self.step_mm) / np.linalg.norm(self.step_mm)
        return float(np.degrees(np.arccos(min(1.0, along))))

    @property
    def is_tilted(self) -> bool:
        """Whether right angles would put any slice elsewhere than its header does."""
        normal = _normal(self.place)
        sideways = self.step_mm - (self.step_mm @ normal) * normal
        drift = np.linalg.norm(sideways) * (len(self.frames) - 1)
        return bool(drift > max(ROUNDED_MM, 0.1 * min(self.place.spacing_mm)))


def stack(frames: Sequence[Frame], *, resample_missing: int, shear_correct: bool) -> Stack:
    """Order the frames of a volume along their normal.

    Args:
        frames: all with a place, in any order.
        resample_missing: how many slices may be missing in a row.
        shear_correct: whether slices may be shifted against one another, as by a tilted gantry.

    Raises:
        DataError: mixed orientations or spacings, several slices in one place, slices missing or at
            odd distances, a tilt; with the positions. Messages name no file.
    """
    places = [frame.place for frame in frames if frame.place]
    _refuse_mixed(places)
    if len(frames) == 1:
        return _single(frames[0], places[0])
    normal = _normal(places[0])
    positions = np.array([place.position_mm for place in places])
    order = np.argsort(positions @ normal, kind="stable")
    along, positions = (positions @ normal)[order], positions[order]
    _refuse_shared(along, [frames[i] for i in order])
    told_mm = _told_mm(frames[0])
    numbers = _numbers(along, resample_missing=resample_missing, told_mm=told_mm)
    step = _step(positions, numbers)
    slices: list[Frame | None] = [None] * (numbers[-1] + 1)
    for number, index in zip(numbers, order, strict=True):
        slices[number] = frames[index]
    found = Stack(tuple(slices), positions[0], step, places[0])
    if found.is_tilted and not shear_correct:
        raise DataError(
            f"its slices are shifted against one another, as by a gantry tilted by "
            f"{found.tilt_degrees:.1f} degrees ({_listed(along)}); set "
            f"preprocess.reading.shear_correct: true to resample them at right angles"
        )
    return found


def _normal(place: Place) -> np.ndarray:
    """Return the direction that slices are counted in: slice, row and column are right-handed."""
    return np.cross(place.axes[1], place.axes[0])


def _single(frame: Frame, place: Place) -> Stack:
    thickness = frame.get("SpacingBetweenSlices") or frame.get("SliceThickness")
    try:
        thickness = abs(float(thickness))
    except (TypeError, ValueError):
        thickness = 0.0
    if not 0 < thickness < np.inf:
        raise DataError(
            "one slice that does not say how thick it is; set preprocess.reading.planar: true to "
            "read single slices as 2D images"
        )
    return Stack((frame,), place.position_mm, thickness * _normal(place), place)


def _refuse_mixed(places: Sequence[Place]) -> None:
    first = places[0]
    turned = [p for p in places if np.abs(p.axes - first.axes).max() > SAME_DIRECTION]
    if turned:
        directions = Counter(tuple(np.round(p.axes.ravel(), 3).tolist()) for p in places)
        listed = ", ".join(f"{count} slices of {d}" for d, count in directions.most_common(4))
        raise DataError(
            f"mixed orientations: {listed}; put each orientation into a folder of its own"
        )
    spacings = Counter(tuple(round(v, 4) for v in place.spacing_mm) for place in places)
    if len(spacings) > 1:
        listed = ", ".join(f"{count} slices of {s} mm" for s, count in spacings.most_common(4))
        raise DataError(f"mixed pixel spacings: {listed}; keep the slices of one of them")


def _refuse_shared(along: np.ndarray, frames: Sequence[Frame]) -> None:
    gaps = np.diff(along)
    shared = np.flatnonzero(gaps <= max(SAME_PLACE * np.median(gaps), SAME_PLACE_MM))
    if not len(shared):
        return
    pairs = [(frames[i], frames[i + 1]) for i in map(int, shared)]
    differing = [k for k in TOLD_APART_BY if all(str(a.get(k)) != str(b.get(k)) for a, b in pairs)]
    if differing:
        apart = f"they differ in {', '.join(differing)}"
    else:
        apart = "they seem to be copies of one another"
    each, rest = divmod(len(along), len(along) - len(shared))
    if len(shared) + 1 == len(along):
        where = f"all lie at {-along[0]:.2f} mm"
    elif not rest:
        where = f"{each} at each of {_listed(np.delete(along, shared))}"
    else:
        where = f"again at {_listed(along[shared])}"
    raise DataError(
        f"several slices in one place: {where} along their normal; {apart}: keep one of each place"
    )


def _told_mm(frame: Frame) -> float:
    """Return SpacingBetweenSlices; 0 where it is none, as where writers mean the gap by it."""
    try:
        told_mm, thickness_mm = (
            abs(float(frame.get(key) or 0)) for key in ("SpacingBetweenSlices", "SliceThickness")
        )
    except (TypeError, ValueError):
        return 0.0
    return told_mm if told_mm >= max(FINEST_MM, thickness_mm * (1 - OFF_TOLD)) else 0.0


def _numbers(along: np.ndarray, *, resample_missing: int, told_mm: float) -> np.ndarray:
    """Return the place of each slice on a regular grid, from 0."""
    regular = np.linspace(along[0], along[-1], len(along))
    if np.abs(along - regular).max() <= _tolerance_mm(regular[1] - regular[0]):
        times = _times(regular[1] - regular[0], told_mm)
        numbers = times * np.arange(len(along))
    else:
        numbers = _uneven(along)
    step = (along[-1] - along[0]) / numbers[-1]
    missing = sorted({*range(numbers[-1])} - set(numbers.tolist()))
    widest = int(np.diff(numbers).max()) - 1
    if widest > resample_missing:
        lost = _listed(along[0] + step * np.array(missing))
        raise DataError(
            f"missing slices: {len(missing)}, at {lost} along their normal (there are "
            f"{_listed(along)}); export the series again, or set "
            f"preprocess.reading.resample_missing: {widest} to interpolate them"
        )
    return numbers


def _times(gap_mm: float, told_mm: float) -> int:
    """Return how often the told spacing goes into a gap: every other slice may be missing."""
    times = round(min(gap_mm / told_mm, MOST_PLACES + 1)) if told_mm > 0 else 1
    fits = 1 < times <= MOST_PLACES and abs(gap_mm / told_mm - times) <= OFF_TOLD * times
    return times if fits else 1


def _uneven(along: np.ndarray) -> np.ndarray:
    """Return the places of slices whose gaps are not all the same."""
    gaps = np.diff(along)
    least = gaps[gaps < 1.5 * gaps.min()].mean()
    steps = np.rint(gaps / least).astype(int)
    numbers = np.concatenate([[0], np.cumsum(steps)])
    step = (along[-1] - along[0]) / numbers[-1]
    off = np.abs(along - (along[0] + step * numbers)).max()
    counts = np.unique(steps, return_counts=True)[1]
    is_usual = counts[0] == counts.max()  # one slice out of step would fit half steps as well
    if not is_usual or off > _tolerance_mm(step) or numbers[-1] > MOST_PLACES * len(along):
        raise DataError(
            f"its slices lie at odd distances ({_listed(along)} along their normal; gaps from "
            f"{gaps.min():.2f} to {gaps.max():.2f} mm); export the series again, or remove the case"
        )
    return numbers


def _step(positions: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the way from one slice to the next, ``[3]``, if it is the same for all."""
    step = (positions[-1] - positions[0]) / numbers[-1]
    off = np.linalg.norm(positions - (positions[0] + numbers[:, None] * step), axis=1)
    if off.max() > _tolerance_mm(float(np.linalg.norm(step))):
        raise DataError(
            f"its slices are shifted sideways by up to {off.max():.2f} mm, each by another amount; "
            f"export the series again, or remove the case"
        )
    return step


def _tolerance_mm(step: float) -> float:
    return float(min(max(0.01 * step, ROUNDED_MM), 0.2 * step)) + 1e-6


def _listed(along: np.ndarray) -> str:
    """List positions along the cross product of the header's two directions; we count against it.

    Of an axial series that is its z.
    """
    values = [f"{v:.2f}" for v in np.sort(-along)]
    if len(values) > SHOWN:
        values = [*values[: SHOWN // 2], "…", *values[-SHOWN // 2 :]]
    return f"{', '.join(values)} mm"
