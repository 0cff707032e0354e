"""NIfTI: read a file into a Volume, write a mask back onto the image's own grid."""

import zlib
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError

from medkd.errors import DataError
from medkd.types import Volume

SINGULAR = 1e-9  # mm³ a voxel
DAMAGED = (
    ImageFileError,
    HeaderDataError,
    WrapStructError,
    OSError,
    EOFError,
    ValueError,
    zlib.error,
)


def read(path: Path) -> Volume:
    """Read a 3D or 4D (channels last) NIfTI file, or a pair of .hdr and .img.

    Raises:
        DataError: the file is missing, truncated, not NIfTI, neither 3D nor 4D, or its voxels are
            colours or complex numbers.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file")
    try:
        image = nib.loadsave.load(path)
        if not isinstance(image, nib.nifti1.Nifti1Pair):  # Analyze does not tell left from right
            raise ImageFileError(f"a {type(image).__name__}")
        array = np.asanyarray(image.dataobj)
    except DAMAGED as error:
        reason = " ".join(str(error).split())  # nibabel's span lines
        raise DataError(
            f"{path}: truncated or not a NIfTI file ({reason}); copy it again"
        ) from None
    if array.dtype.kind not in "iufb":
        raise DataError(f"{path}: voxels of type {array.dtype}; a volume holds one number a voxel")
    affine = np.asarray(image.affine, dtype=float)
    if not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < SINGULAR:
        raise DataError(
            f"{path}: its affine does not place voxels in space {affine[:3, :3].tolist()}; correct "
            f"the header's sform or qform"
        )
    return Volume(array=_channels_first(array, path), affine=affine)


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
