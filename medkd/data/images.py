"""Images: read PNG, JPEG and TIFF files into a 2D Volume, write a mask as PNG."""

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageSequence

from medkd.data.memory import refuse_larger
from medkd.errors import DataError
from medkd.options import ReadingOptions
from medkd.types import Volume, without_values

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")  # of all that Pillow reads: some start other programs
VALUE_BYTES = 4  # of a pixel: four bytes, or a float
DAMAGED = (
    *(OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError),
    *(EOFError, OverflowError, MemoryError, RuntimeError, struct.error, zlib.error),
    *(NotImplementedError, ZeroDivisionError),
)
IPTC = 0x0404  # among the blocks of Photoshop
IN_BYTES = {  # texts that Pillow does not decode; other bytes are numbers
    *("comment", "xmp", ExifTags.Base.UserComment, ExifTags.Base.XMLPacket, ExifTags.Base.IPTCNAA),
    *(ExifTags.Base.XPTitle, ExifTags.Base.XPComment, ExifTags.Base.XPAuthor),
    *(ExifTags.Base.XPKeywords, ExifTags.Base.XPSubject),
}
PLACE = "EXIF GPS"
PLAIN = {"P": "RGBA", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB", "LAB": "RGB"}  # Pillow's modes


def read(path: Path, options: ReadingOptions | None = None) -> Volume:
    """Read a grey or colour image as ``[channels, height, width]``; an alpha channel is dropped.

    Raises:
        DataError: the file is missing, truncated, too large or not an image.
    """
    array = _decode(path, options or ReadingOptions(), as_colour=True)
    if array.ndim == 3:
        array = array[..., :1] if array.shape[2] == 2 else array[..., :3]
        return Volume(array=np.moveaxis(array, 2, 0), affine=np.eye(3))
    return Volume(array=array[None], affine=np.eye(3))


def read_label(path: Path, options: ReadingOptions | None = None) -> Volume:
    """Read a label map as ``[1, height, width]``; palette images give their indices.

    Raises:
        DataError: as ``read``, or the file is a colour picture.
    """
    array = _one_value_a_pixel(path, _decode(path, options or ReadingOptions(), as_colour=False))
    return Volume(array=array[None], affine=np.eye(3))


def read_pages(path: Path, options: ReadingOptions | None = None) -> Volume:
    """Read the label maps of a picture's pages as ``[pages, height, width]``; a TIFF may have many.

    Raises:
        DataError: as ``read_label``, or the pages differ in size.
    """
    with _opened(path, options or ReadingOptions(), pages=True) as image:
        pages = [
            _one_value_a_pixel(path, np.asarray(page)) for page in ImageSequence.Iterator(image)
        ]
    if len({page.shape for page in pages}) > 1:
        raise DataError(f"{path}: its pages differ in size; a page is a structure of one image")
    return Volume(array=np.stack(pages), affine=np.eye(3))


def _one_value_a_pixel(path: Path, array: np.ndarray) -> np.ndarray:
    if array.ndim == 3:
        colours = array[..., :1] if array.shape[2] == 2 else array[..., :3]
        if np.any(colours != colours[..., :1]):
            raise DataError(f"{path}: a colour picture; a label map has one value per pixel")
        array = colours[..., 0]
    return array


def write(path: Path, array: np.ndarray) -> None:
    """Write ``[height, width]`` or ``[height, width, 3]`` of uint8 or uint16 as PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{path.name}")
    Image.fromarray(array).save(temporary, format="PNG")
    temporary.replace(path)


def write_pages(path: Path, array: np.ndarray) -> None:
    """Write ``[pages, height, width]`` of uint8 as a TIFF, compressed without loss."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".partial-{path.name}")
    first, *others = (Image.fromarray(page) for page in array)
    first.save(
        temporary,
        format="TIFF",
        save_all=True,
        append_images=others,
        compression="tiff_adobe_deflate",
    )
    temporary.replace(path)


def read_grid(path: Path, options: ReadingOptions | None = None) -> Volume:
    """Return an image's grid: a volume without values.

    Raises:
        DataError: as ``read``, but for pixels that cannot be decoded.
    """
    options = options or ReadingOptions()
    with _opened(path, options) as image:
        return without_values((image.height, image.width), np.eye(3))


def remarks(path: Path) -> dict[str, str]:
    """Return what an image says in words beside its pixels: texts, XMP and EXIF, by their names.

    Of the place where it was taken (GPS) it is told that it is there.

    Raises:
        DataError: as ``read_grid``.
    """
    with _opened(path, ReadingOptions()) as image:
        exif = image.getexif()
        tags = {**exif, **exif.get_ifd(ExifTags.IFD.Exif)}
        blocks = image.info.get("photoshop", {})
        said = {f"text {key}": _words(key, value) for key, value in image.info.items()}
        said |= {f"EXIF {int(tag)}": _words(tag, value) for tag, value in tags.items()}
        said["IPTC"] = _words("comment", blocks.get(IPTC, b""))
        said[PLACE] = "a position" if exif.get_ifd(ExifTags.IFD.GPSInfo) else ""
        return {key: text for key, text in said.items() if text}


def _words(name: object, value: object) -> str:
    """Return a text, or bytes that are one: of one or two bytes a letter, perhaps marked so."""
    if isinstance(value, bytes) and name in IN_BYTES:
        unmarked = value.removeprefix(b"ASCII\0\0\0").removeprefix(b"UNICODE\0")
        return unmarked.replace(b"\0", b"").decode("utf-8", "replace")
    return str(value) if isinstance(value, str) else ""


def _decode(path: Path, options: ReadingOptions, *, as_colour: bool) -> np.ndarray:
    with _opened(path, options) as image:
        encoded = as_colour and image.mode in PLAIN
        return np.asarray(image.convert(PLAIN[image.mode]) if encoded else image)


@contextmanager
def _opened(path: Path, options: ReadingOptions, *, pages: bool = False) -> Iterator[Image.Image]:
    """Open an image and judge its size; whatever fails inside is one error that names the file."""
    # Pillow warns of what it then refuses, and of sizes that memory_gib is there to judge
    warnings.filterwarnings("ignore", module=r"PIL\.")
    try:
        with Image.open(path, formats=FORMATS) as image:
            count = getattr(image, "n_frames", 1) if image.format == "TIFF" else 1
            if count > 1 and not pages:
                raise DataError(f"{path}: {count} pages; save one image a file")
            size = image.width * image.height * VALUE_BYTES * count
            pixels = f"{image.width}x{image.height} pixels" + f" on {count} pages" * (count > 1)
            refuse_larger(path, size, memory_bytes=options.memory_bytes, of=pixels)
            yield image
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except Image.DecompressionBombError as error:
        raise DataError(f"{path}: too large ({error}); cut it into tiles") from None
    except DAMAGED as error:
        raise DataError(
            f"{path}: truncated or not an image ({error}); copy it again", private=(str(error),)
        ) from None
