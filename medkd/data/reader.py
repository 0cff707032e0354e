"""Reader: one door to image files of any format, chosen by what the file is.

The library of a format is imported with the first file of it: a device starts for one image.
"""

from pathlib import Path
from types import ModuleType

import numpy as np

from medkd.data.dicom import is_dicom
from medkd.data.memory import pieces, smallest_type
from medkd.errors import DataError
from medkd.options import LARGEST_LABEL, ReadingOptions
from medkd.types import Volume

NIFTI = (".nii", ".nii.gz", ".hdr", ".img")
PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")
ROUNDING = 1e-4  # of a scaled label: slopes are float32
SUFFIXES = (*NIFTI, *PICTURES, ".dcm")


def suffix(path: Path) -> str:
    """Return the file's format suffix in lower case; ``.nii.gz`` counts as one.

    Example:
        >>> suffix(Path("a.b/scan.v2.NII.gz"))
        '.nii.gz'
    """
    name = path.name.lower()
    return ".nii.gz" if name.endswith(".nii.gz") else Path(name).suffix


def stem(path: Path) -> str:
    """Return the file's name without its format suffix; a DICOM folder has none.

    Example:
        >>> stem(Path("scan.v2.nii.gz")), stem(Path("1.2.840.10008"))
        ('scan.v2', '1.2.840.10008')
    """
    return path.name[: -len(suffix(path))] if suffix(path) in SUFFIXES else path.name


def read_image(path: Path, options: ReadingOptions | None = None) -> Volume:
    """Read an image file, or a folder that holds a DICOM series.

    Args:
        path: what it is decides how it is read.
        options: how much memory it may take, which series is meant, and what may be mended.

    Raises:
        DataError: missing, truncated, too large, or in no format medkd reads.
    """
    return _format_of(path).read(path, options)


def read_grid(path: Path, options: ReadingOptions | None = None) -> Volume:
    """Return the grid of an image, a volume without values; as a rule no voxel is read.

    Raises:
        DataError: as ``read_image``.
    """
    return _format_of(path).read_grid(path, options)


def read_label(
    path: Path, options: ReadingOptions | None = None, *, several: bool = False
) -> Volume:
    """Read a label map as integers, ``[1, *space]``.

    Args:
        path: the file.
        options: as for ``read_image``.
        several: whether it may hold several channels: the last axis of a 4D NIfTI, or the pages of
            a TIFF.

    Raises:
        DataError: as ``read_image``, several channels, or values that are not whole numbers.
    """
    if suffix(path) in PICTURES:
        from medkd.data import images

        read = images.read_pages if several else images.read_label
        volume = read(path, options)
    elif suffix(path) in NIFTI:
        from medkd.data import nifti

        volume = nifti.read(path, options, order=0)
    else:
        volume = read_image(path, options)
    if volume.array.shape[0] != 1 and not several:
        raise DataError(
            f"{path}: {volume.array.shape[0]} channels; a label map has one, unless "
            f"data.overlapping says that each is a structure"
        )
    whole = _whole_numbers(volume.array, path)
    return Volume(whole, volume.affine, volume.remedies, volume.frame_uid)


def _whole_numbers(array: np.ndarray, path: Path) -> np.ndarray:
    """Return values as the smallest integers that hold them."""
    least, most = array.min(initial=0), array.max(initial=0)
    is_float = np.issubdtype(array.dtype, np.floating)
    if is_float and not np.isfinite([least, most]).all():
        raise DataError(f"{path}: the label map holds NaN or infinity; correct it")
    parts = pieces(array) if is_float else ()
    if any(np.abs(part - np.rint(part)).max(initial=0) > ROUNDING for part in parts):
        raise DataError(f"{path}: the label map holds fractions; give one whole number a voxel")
    if most > LARGEST_LABEL or least < -LARGEST_LABEL:
        raise DataError(
            f"{path}: the label map holds values from {least:g} to {most:g}; values go up to "
            f"{LARGEST_LABEL}, so this may be an image"
        )
    dtype = smallest_type(*(round(float(value)) for value in (least, most)))
    if is_float:
        return np.rint(array, out=np.empty_like(array, dtype), casting="unsafe")
    return array.astype(dtype, copy=False)


def write_masks(path: Path, masks: np.ndarray, *, affine: np.ndarray) -> None:
    """Write masks ``[structures, *space]`` that may overlap: a 4D NIfTI, or a TIFF of pages in 2D.

    Raises:
        DataError: the file name's format cannot hold them.
    """
    if masks.ndim == 4 and suffix(path) in {".nii", ".nii.gz"}:
        from medkd.data import nifti

        nifti.write(path, np.moveaxis(masks.astype(np.uint8), 0, -1), affine=affine)
    elif masks.ndim == 3 and suffix(path) in {".tif", ".tiff"}:
        from medkd.data import images

        images.write_pages(path, masks.astype(np.uint8))
    else:
        kind = ".nii or .nii.gz" if masks.ndim == 4 else ".tif"
        raise DataError(f"{path}: masks that may overlap are written to a name that ends in {kind}")


def _format_of(path: Path) -> ModuleType:
    """Return the module that reads what ``path`` is."""
    if suffix(path) in NIFTI:
        from medkd.data import nifti

        return nifti
    if suffix(path) in PICTURES:
        from medkd.data import images

        return images
    if not path.exists():
        raise DataError(f"{path}: no such file")
    if is_dicom(path):
        from medkd.data.dicom import volume

        return volume
    raise DataError(f"{path}: not NIfTI, PNG, JPEG, TIFF or DICOM; convert it, or remove the case")


def write_mask(path: Path, mask: np.ndarray, *, affine: np.ndarray) -> None:
    """Write a label map ``[*space]`` on the grid ``affine``: NIfTI in 3D, PNG in 2D.

    Raises:
        DataError: the file name's format cannot hold the mask.
    """
    dtype = np.uint8 if mask.max(initial=0) < 256 else np.uint16
    if mask.ndim == 3 and suffix(path) in {".nii", ".nii.gz"}:
        from medkd.data import nifti

        nifti.write(path, mask.astype(dtype), affine=affine)
    elif mask.ndim == 2 and suffix(path) == ".png":
        from medkd.data import images

        images.write(path, mask.astype(dtype))
    else:
        kind = ".nii or .nii.gz" if mask.ndim == 3 else ".png"
        raise DataError(f"{path}: a {mask.ndim}D mask is written to a name that ends in {kind}")
