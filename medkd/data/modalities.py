"""Modalities: co-registered images of one case, a file each, as the channels of one image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from nibabel.orientations import aff2axcodes

from medkd.data.reader import read_image, stem
from medkd.data.turned import turned_onto
from medkd.errors import DataError
from medkd.options import ReadingOptions
from medkd.types import GRID_TOLERANCE_MM, Volume, grid_distance_mm


def read_modalities(
    paths: Sequence[Path],
    options: ReadingOptions | None = None,
    *,
    case: str,
    names: Sequence[str] = (),
) -> Volume:
    """Read the files of a case into one image, in their order; one file may hold all channels.

    Args:
        paths: one file or DICOM folder, or one a modality.
        options: as for ``read_image``; its memory is that of all files together.
        case: its id, for errors.
        names: of the modalities, where ``options`` say which series of a folder is which.

    Raises:
        DataError: as ``read_image``; a file of several holds more than one channel, or lies on
            another grid than the first. Axes are turned, and nothing is resampled: that is
            registration's to do.
    """
    if len(paths) == 1:
        return read_image(paths[0], options)
    options = options or ReadingOptions()
    each = options.model_copy(update={"memory_gib": options.memory_gib / len(paths)})
    kinds = [each.of(name) for name in names] or [each] * len(paths)
    read = [read_image(path, kind) for path, kind in zip(paths, kinds, strict=True)]
    first = read[0]
    volumes = [turned_onto(volume, first) for volume in read]
    for path, volume in zip(paths, volumes, strict=True):
        if len(volume.array) != 1:
            raise DataError(
                f"{path}: case {case}: {len(volume.array)} channels, where a case has a file for "
                f"each modality; give files of one channel, or one 4D file of all"
            )
        if difference := _difference(volume, first):
            raise DataError(
                f"{path}: case {case}: not on the grid of {paths[0]}: {difference}; register and "
                f"resample it onto that image",
                private=(str(paths[0]),),
            )
    return Volume(
        array=np.concatenate([volume.array for volume in volumes]),
        affine=first.affine,
        remedies=tuple(remedy for volume in volumes for remedy in volume.remedies),
        frame_uid=first.frame_uid,
    )


def _difference(volume: Volume, first: Volume) -> str:
    """Say how one grid differs from another; nothing if they are one."""
    if volume.shape != first.shape:
        return f"{_times(volume.shape)} voxels, not {_times(first.shape)}"
    if volume.frame_uid and first.frame_uid and volume.frame_uid != first.frame_uid:
        return "in another DICOM frame of reference, so that places cannot be compared"
    apart = grid_distance_mm(volume, first.affine)
    if apart <= GRID_TOLERANCE_MM:
        return ""
    if not np.allclose(volume.spacing_mm, first.spacing_mm, rtol=1e-4):
        return f"spacing {_times(volume.spacing_mm)} mm, not {_times(first.spacing_mm)}"
    axes, others = ("".join(map(str, aff2axcodes(v.affine))) for v in (volume, first))
    return f"axes {axes}, not {others}" if axes != others else f"{apart:.3g} mm apart"


def _times(values: Sequence[float | int]) -> str:
    return "x".join(f"{value:.4g}" for value in values)


def modality_of(path: Path, modalities: Sequence[str]) -> tuple[str, int] | None:
    """Return the case that a file's name tells, and the number of its modality.

    A name ends in the modality's, or in its number in four digits as nnU-Net writes it.

    Example:
        >>> modality_of(Path("p7_FLAIR.nii.gz"), ["t1", "flair"])
        ('p7', 1)
        >>> modality_of(Path("p7_0000.nii.gz"), ["t1", "flair"])
        ('p7', 0)
    """
    name = stem(path)
    endings = {f"_{each}".lower(): number for number, each in enumerate(modalities)}
    endings |= {f"_{number:04d}": number for number in range(len(modalities))}
    fitting = [ending for ending in endings if name.lower().endswith(ending)]
    ending = max(fitting, key=len, default="")
    case = name[: -len(ending)] if ending else ""
    return (case, endings[ending]) if case else None
