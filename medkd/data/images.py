"""Images: read PNG, JPEG and TIFF files into a 2D Volume, write a mask as PNG."""

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from medkd.errors import DataError
from medkd.types import Volume

PLAIN = {"P": "RGBA", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB"}  # Pillow's modes


def read(path: Path) -> Volume:
    """Read a grey or colour image as ``[channels, height, width]``; an alpha channel is dropped.

    Raises:
        DataError: the file is missing, truncated or not an image.
    """
    array = _decode(path, as_colour=True)
    if array.ndim == 3:
        array = array[..., :1] if array.shape[2] == 2 else array[..., :3]
        return Volume(array=np.moveaxis(array, 2, 0), affine=np.eye(3))
    return Volume(array=array[None], affine=np.eye(3))


def read_label(path: Path) -> Volume:
    """Read a label map as ``[1, height, width]``; palette images give their indices.

    Raises:
        DataError: as ``read``, or the file is a colour picture.
    """
    array = _decode(path, as_colour=False)
    if array.ndim == 3:
        colours = array[..., :1] if array.shape[2] == 2 else array[..., :3]
        if np.any(colours != colours[..., :1]):
            raise DataError(f"{path}: a colour picture; a label map has one value per pixel")
        array = colours[..., 0]
    return Volume(array=array[None], affine=np.eye(3))


def write(path: Path, array: np.ndarray) -> None:
    """Write ``[height, width]`` or ``[height, width, 3]`` of uint8 or uint16 as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{path.name}")
    Image.fromarray(array).save(temporary, format="PNG")
    temporary.replace(path)


def _decode(path: Path, *, as_colour: bool) -> np.ndarray:
    try:
        with Image.open(path) as image:
            pages = getattr(image, "n_frames", 1)
            if image.format == "TIFF" and pages > 1:
                raise DataError(f"{path}: {pages} pages; save one image a file")
            encoded = as_colour and image.mode in PLAIN
            return np.asarray(image.convert(PLAIN[image.mode]) if encoded else image)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too large ({error}); cut it into tiles") from None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
        raise DataError(f"{path}: truncated or not an image ({error}); copy it again") from None
