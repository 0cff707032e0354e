"""NIfTI: read a file into a Volume, write a mask back onto the image's own grid."""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError

from medkd.errors import DataError
from medkd.types import Volume

SUFFIXES = (".nii", ".nii.gz", ".hdr", ".img")


def read(path: Path) -> Volume:
    """Read a 3D or 4D (channels last) NIfTI file.

    Raises:
        DataError: the file is missing, truncated, not NIfTI, or neither 3D nor 4D.
    """
    try:
        image = nib.nifti1.Nifti1Image.from_filename(path)
        array = np.asanyarray(image.dataobj)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"{path}: truncated or not a NIfTI file ({error}); copy it again") from None
    return Volume(array=_channels_first(array, path), affine=np.asarray(image.affine, dtype=float))


def write(path: Path, array: np.ndarray, *, affine: np.ndarray) -> None:
    """Write ``[*space]`` to a NIfTI file whose grid is ``affine``.

    Args:
        path: ends in ``.nii`` or ``.nii.gz``.
        array: ``[*space]``, or ``[*space, channels]``.
        affine: ``[4, 4]``, voxel index to RAS+ millimetres.
    """
    image = nib.nifti1.Nifti1Image(array, affine)
    image.header.set_xyzt_units("mm")
    image.set_sform(affine, code=1)
    if _is_orthogonal(affine):  # a quaternion has no shear
        image.set_qform(affine, code=1)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{path.name}")
    nib.loadsave.save(image, temporary)
    temporary.replace(path)


def _channels_first(array: np.ndarray, path: Path) -> np.ndarray:
    while array.ndim > 4 and array.shape[3] == 1:  # vector images keep a time axis of 1
        array = array[:, :, :, 0]
    if array.ndim == 3:
        return array[None]
    if array.ndim == 4:
        return np.moveaxis(array, 3, 0)
    raise DataError(f"{path}: shape {array.shape}; a volume has 3 axes, or 4 with channels last")


def _is_orthogonal(affine: np.ndarray) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.allclose(axes.T @ axes, np.eye(3), atol=1e-4))
