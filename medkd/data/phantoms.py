"""Phantoms: procedural MR-like cases, so that a whole study runs where there is no data set.

A body with skin fat, muscle, a spine, vessels and neighbouring organs holds one labelled organ:
a shell, a core in it, and a small lesion off its centre. Neighbours, vessels and nodes have the
signal of shell, core and lesion, so a network has to learn where things lie and not how bright
they are. No phantom looks like a person, and a figure made on phantoms says nothing about one.
"""

import csv
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
from numpy.random import Generator
from scipy.ndimage import gaussian_filter
from scipy.spatial.transform import Rotation

from medkd.data import images, nifti
from medkd.seeding import derive_seed

LABELS = {"shell": 1, "core": 2, "lesion": 3}
SUBSLICES = 3  # rendered and averaged per slice; odd, so that one lies in the slice's middle
BLUR_MM = 0.6  # of the point spread in plane


class Tissue(IntEnum):
    """What a point is made of; the first four are also the values of the label map."""

    AIR = 0
    SHELL = 1
    CORE = 2
    LESION = 3
    FAT = 4
    MUSCLE = 5
    LOOSE = 6
    BONE = 7
    MARROW = 8
    ORGAN = 9
    VESSEL = 10
    NODE = 11


#              air  shell core lesion fat  musc loose bone  marr organ vess node
SIGNAL = np.array([0, 0.50, 0.67, 0.37, 0.95, 0.36, 0.25, 0.08, 0.74, 0.50, 0.67, 0.37])
TEXTURE = np.array([0, 0.02, 0.02, 0.02, 0.08, 0.05, 0.07, 0.01, 0.06, 0.02, 0.02, 0.02])


Layer = Iterator[tuple[Tissue, np.ndarray]]  # where to paint what


class Site(NamedTuple):
    """How one hospital stores and how noisy its scanner is."""

    name: str
    axes: str  # orientation codes of the file
    noise: float  # standard deviation, as a share of the brightest tissue


SITES = (Site("north", "RAS", 0.02), Site("east", "LPS", 0.03), Site("south", "PIR", 0.04))


def phantom(
    *,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    seed: int,
    anatomy_seed: int | None = None,
    noise: float = SITES[0].noise,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one case, 2D or 3D, its axes pointing right, anterior and superior.

    Args:
        shape: voxels along each axis; the last axis counts slices.
        spacing_mm: distance between voxel centres along each axis.
        seed: of pose, contrast, texture, bias field, gain and noise.
        anatomy_seed: of the organs' form and place, ``seed`` if None; cases that share it are
            alike as two visits of one patient are.
        noise: standard deviation of the Rician noise as a share of fat's signal.

    Returns:
        The image, float32 ``[*shape]`` in arbitrary scanner units from 0 up, and the label map,
        uint8 ``[*shape]`` with the values of ``LABELS`` and 0 elsewhere.
    """
    rng = np.random.default_rng(derive_seed(seed, "visit"))
    build = np.random.default_rng(
        derive_seed(seed if anatomy_seed is None else anatomy_seed, "body")
    )
    fine = (*shape[:-1], shape[-1] * SUBSLICES)
    fine_mm = (*spacing_mm[:-1], spacing_mm[-1] / SUBSLICES)
    tissue = _body(_pose(_grid(fine), np.multiply(fine, fine_mm) / 2, rng), build)
    signal = _average_slices(_signal(tissue, fine_mm, rng))
    signal = gaussian_filter(signal, [*(BLUR_MM / np.array(spacing_mm[:-1])), 0])
    image = _acquire(signal, noise, rng)
    middle = tissue[..., SUBSLICES // 2 :: SUBSLICES]
    return image.astype(np.float32), np.where(middle <= Tissue.LESION, middle, 0).astype(np.uint8)


def write_cohort(
    folder: Path,
    *,
    cases: int,
    cases_per_patient: int,
    shape: Sequence[int],
    spacing_mm: Sequence[float],
    seed: int,
) -> None:
    """Write ``images``, ``labels`` and ``cases.csv``; one seed gives the same bytes every time.

    3D cases are NIfTI files in the axis order of their site, 2D cases PNG files. Patients take
    turns between the sites.

    Args:
        folder: made if need be.
        cases: how many images.
        cases_per_patient: the last patient may have fewer.
        shape: voxels along each axis, before they are stored in the site's order.
        spacing_mm: distance between voxel centres along each axis.
        seed: of the whole cohort.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["case", "image", "label", "patient", "site"])
        for index in range(cases):
            patient = index // cases_per_patient
            site = SITES[patient % len(SITES)]
            image, label = phantom(
                shape=shape,
                spacing_mm=spacing_mm,
                seed=derive_seed(seed, "case", index),
                anatomy_seed=derive_seed(seed, "patient", patient),
                noise=site.noise,
            )
            case = f"phantom_{index:03d}"
            name = case + (".nii.gz" if len(shape) == 3 else ".png")
            stored = {"images": np.rint(image).astype(np.uint16), "labels": label}
            for kind, array in stored.items():
                _store(folder / kind / name, array, spacing_mm=spacing_mm, axes=site.axes)
            table.writerow(
                [case, f"images/{name}", f"labels/{name}", f"patient_{patient:03d}", site.name]
            )


def _store(path: Path, array: np.ndarray, *, spacing_mm: Sequence[float], axes: str) -> None:
    if array.ndim == 2:
        images.write(path, array)
        return
    affine = np.diag([*spacing_mm, 1.0])
    affine[:3, 3] = -np.multiply(array.shape, spacing_mm) / 2
    ornt = nib.orientations.ornt_transform(
        nib.orientations.axcodes2ornt("RAS"), nib.orientations.axcodes2ornt(axes)
    )
    turned = nib.nifti1.Nifti1Image(array, affine).as_reoriented(ornt)
    nifti.write(path, np.asarray(turned.dataobj), affine=turned.affine)


def _grid(shape: Sequence[int]) -> np.ndarray:
    """Voxel centres ``[axes, *shape]`` of a field of view that spans -1 to 1 along each axis."""
    axes = [((2 * np.arange(n) + 1) / n - 1).astype(np.float32) for n in shape]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _pose(points: np.ndarray, half_mm: np.ndarray, rng: Generator) -> np.ndarray:
    """Turn, shift and scale the patient in the scanner; rigid in millimetres, not in voxels."""
    dims = len(points)
    degrees = rng.normal(0, [8, 4, 4]) if dims == 3 else rng.normal(0, [8, 0, 0])
    turn = Rotation.from_euler("zyx", degrees, degrees=True).as_matrix()[:dims, :dims]
    turn = turn * half_mm / half_mm[:, None] / rng.uniform(0.93, 1.07)
    shift = rng.uniform(-0.07, 0.07, dims)
    posed = _along(turn, points) - _column(shift, points)
    return posed + _waves(posed, rng, size=0.012, frequency=4.0)


def _waves(points: np.ndarray, rng: Generator, *, size: float, frequency: float) -> np.ndarray:
    """Smooth random displacement ``[axes, *shape]``; a function of place, whatever the grid."""
    dims = len(points)
    moved = np.zeros_like(points)
    for _ in range(5):
        vector, phase = rng.normal(0, frequency / np.sqrt(dims), dims), rng.uniform(0, 2 * np.pi)
        wave = np.sin(_along(vector, points) + phase)
        moved += _column(rng.normal(0, size, dims), points) * wave
    return moved


def _along(directions: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.tensordot(directions.astype(points.dtype), points, axes=1)


def _column(vector: np.ndarray, points: np.ndarray) -> np.ndarray:
    return vector[: len(points)].astype(points.dtype).reshape(-1, *[1] * (points.ndim - 1))


def _radius(
    points: np.ndarray, centre: np.ndarray, radii: np.ndarray, *, power: float = 2.0
) -> np.ndarray:
    """Distance from a superquadric's centre, 1 on its surface; 2D takes the first two of three."""
    scaled = np.abs((points - _column(centre, points)) / _column(radii, points))
    return (scaled**power).sum(0) ** (1 / power)


def _body(points: np.ndarray, rng: Generator) -> np.ndarray:
    """Tissue ``[*shape]`` at ``points``; a later layer lies over the earlier ones."""
    points = points + _waves(points, rng, size=0.03, frequency=3.0)
    tissue = np.full(points.shape[1:], Tissue.AIR, dtype=np.uint8)
    for layer in (_wall, _spine, _neighbours, _vessels, _organ):
        for kind, inside in layer(points, rng):
            tissue[inside] = kind
    return tissue


def _wall(points: np.ndarray, rng: Generator) -> Layer:
    radius = _radius(points, np.zeros(3), np.array([0.93, 0.86, 2.5]), power=2.6)
    fat = rng.uniform(0.05, 0.12)
    yield Tissue.FAT, radius < 1
    yield Tissue.MUSCLE, radius < 1 - fat
    yield Tissue.LOOSE, radius < 0.9 - fat


def _spine(points: np.ndarray, rng: Generator) -> Layer:
    centre = np.array([rng.normal(0, 0.04), -0.6, 0])
    radius = _radius(points, centre, np.array([0.2, 0.17, 2.5]), power=2.4)
    yield Tissue.BONE, radius < 1
    yield Tissue.MARROW, radius < 0.75


def _neighbours(points: np.ndarray, rng: Generator) -> Layer:
    """A large organ, and a decoy that has a shell and a core too."""
    centre, radii = rng.normal([-0.5, 0.05, 0.1], 0.04), rng.uniform(0.85, 1.15, 3)
    yield Tissue.ORGAN, _radius(points, centre, radii * [0.26, 0.4, 0.8]) < 1
    decoy = _radius(points, rng.normal([-0.1, 0.55, 0], 0.05), radii * [0.26, 0.17, 0.6])
    yield Tissue.ORGAN, decoy < 1
    yield Tissue.VESSEL, decoy < 0.6


def _vessels(points: np.ndarray, rng: Generator) -> Layer:
    """Tubes along the slices, and nodes as large as the lesion."""
    height = points[2] if len(points) == 3 else 0
    for _ in range(4):
        x, y, bend, width = rng.uniform([-0.6, -0.6, -0.3, 0.05], [0.6, 0.6, 0.3, 0.09])
        section = np.stack([points[0] - float(bend) * height, points[1]])
        yield Tissue.VESSEL, _radius(section, np.array([x, y]), np.array([width, width])) < 1
    for _ in range(3):
        centre, radii = rng.uniform(-0.55, 0.55, 3), rng.uniform(0.12, 0.18, 3)
        yield Tissue.NODE, _radius(points, centre, radii) < 1


def _organ(points: np.ndarray, rng: Generator) -> Layer:
    """The labelled organ: the core's surface is wrinkled, the lesion lies off the centre."""
    centre, radii = rng.normal([0.25, 0.0, 0.0], 0.05), rng.uniform(0.38, 0.48, 3)
    radius = _radius(points, centre, radii, power=rng.uniform(2, 2.6))
    yield Tissue.SHELL, radius < 1
    yield Tissue.CORE, radius + _waves(points, rng, size=0.045, frequency=9.0)[0] < 0.64
    away = rng.normal(0, 1, 3)
    spot = centre + radii * 0.42 * away / np.linalg.norm(away[: len(points)])
    lesion = _radius(points, spot, rng.uniform(0.15, 0.2, 3)) < 1
    yield Tissue.LESION, lesion & (radius < 0.95)


def _signal(tissue: np.ndarray, spacing_mm: Sequence[float], rng: Generator) -> np.ndarray:
    """Noiseless signal ``[*shape]``: fat is about 1, every case has a contrast of its own."""
    level = np.clip(SIGNAL + rng.normal(0, 0.02, len(SIGNAL)), 0, None) ** rng.uniform(0.8, 1.25)
    level[Tissue.AIR] = 0
    grain = gaussian_filter(rng.standard_normal(tissue.shape), 1.2 / np.array(spacing_mm))
    return level[tissue] + TEXTURE[tissue] * grain / grain.std()


def _average_slices(fine: np.ndarray) -> np.ndarray:
    """Average sub-slices, so that a voxel on a border mixes both sides as a thick slice does."""
    return fine.reshape(*fine.shape[:-1], -1, SUBSLICES).mean(-1)


def _acquire(signal: np.ndarray, noise: float, rng: Generator) -> np.ndarray:
    """Coil sensitivity, Rician noise and an arbitrary gain."""
    grid = _grid(signal.shape)
    slope, curve = rng.uniform(-0.25, 0.25, (2, len(grid)))
    sensitivity = np.exp(np.tensordot(slope, grid, axes=1) + np.tensordot(curve, grid**2, axes=1))
    real, imaginary = rng.normal(0, noise, (2, *signal.shape))
    return np.hypot(signal * sensitivity + real, imaginary) * np.exp(rng.uniform(5.5, 7.5))
