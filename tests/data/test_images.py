import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from medkd.data import images
from medkd.errors import DataError
from medkd.options import ReadingOptions

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 256, (6, 7), dtype=np.uint8)
COLOUR = RNG.integers(0, 256, (6, 7, 3), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (6, 7), dtype=np.uint8)


def save(path, array, **options):
    Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
@pytest.mark.parametrize("array", [GREY, COLOUR], ids=["L", "RGB"])
def test_pixels_are_read_as_they_are(tmp_path, array, suffix):
    volume = images.read(save(tmp_path / f"image{suffix}", array))
    np.testing.assert_array_equal(volume.array, np.moveaxis(np.atleast_3d(array), 2, 0))
    np.testing.assert_array_equal(volume.affine, np.eye(3))
    assert (volume.dims, volume.shape, volume.spacing_mm) == (2, (6, 7), (1, 1))


@pytest.mark.parametrize("picture", [GREY, COLOUR], ids=["LA", "RGBA"])
def test_an_alpha_channel_is_dropped(tmp_path, picture):
    path = save(tmp_path / "image.png", np.dstack([picture, ALPHA]))
    np.testing.assert_array_equal(
        images.read(path).array, np.moveaxis(np.atleast_3d(picture), 2, 0)
    )


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_what_is_written_is_read(tmp_path, dtype):
    array = RNG.integers(0, np.iinfo(dtype).max, (6, 7)).astype(dtype)
    path = tmp_path / "new" / "mask.png"
    images.write(path, array)
    assert [p.name for p in path.parent.iterdir()] == ["mask.png"]
    for read in (images.read, images.read_label):
        np.testing.assert_array_equal(read(path).array[0], array)
        assert read(path).array.dtype == dtype


@pytest.mark.parametrize("options", [{}, {"transparency": bytes(range(200))}])
def test_a_palette_is_colour_in_an_image_and_indices_in_a_label(tmp_path, options):
    indexed = Image.fromarray(COLOUR).quantize(5)
    indexed.save(tmp_path / "image.png", **options)
    colours = np.array(indexed.getpalette()).reshape(-1, 3)[np.asarray(indexed)]
    picture, label = images.read(tmp_path / "image.png"), images.read_label(tmp_path / "image.png")
    np.testing.assert_array_equal(picture.array, np.moveaxis(colours, 2, 0))
    np.testing.assert_array_equal(label.array[0], np.asarray(indexed))


@pytest.mark.parametrize("mode", ["CMYK", "YCbCr"])
def test_other_colour_spaces_become_red_green_blue(tmp_path, mode):
    Image.fromarray(COLOUR).convert(mode).save(tmp_path / "image.tif")
    difference = np.moveaxis(images.read(tmp_path / "image.tif").array, 0, 2) - COLOUR.astype(int)
    assert np.abs(difference).max() <= 3


def test_a_grey_picture_stored_as_colour_is_a_label(tmp_path):
    path = save(tmp_path / "label.png", np.dstack([GREY] * 3))
    np.testing.assert_array_equal(images.read_label(path).array[0], GREY)


def test_a_black_and_white_label_is_read(tmp_path):
    path = save(tmp_path / "label.png", GREY > 100)
    np.testing.assert_array_equal(images.read_label(path).array[0], GREY > 100)


@pytest.mark.parametrize("array", [COLOUR, np.dstack([COLOUR, ALPHA])], ids=["RGB", "RGBA"])
def test_a_colour_label_is_refused(tmp_path, array):
    with pytest.raises(DataError, match=r"label\.png: a colour picture; .* one value per pixel"):
        images.read_label(save(tmp_path / "label.png", array))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("share", [0.0, 0.05, 0.6])
def test_a_truncated_file_is_refused(tmp_path, suffix, share):
    noise = RNG.integers(0, 256, (64, 64), dtype=np.uint8)
    content = save(tmp_path / f"whole{suffix}", noise).read_bytes()
    (tmp_path / f"part{suffix}").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=f"part{suffix}: truncated or not an image.*copy it again"):
        images.read(tmp_path / f"part{suffix}")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"gone\.png: no such file"):
        images.read(tmp_path / "gone.png")


def test_several_pages_are_refused_instead_of_dropped(tmp_path):
    more = {"save_all": True, "append_images": [Image.fromarray(GREY)]}
    with pytest.raises(DataError, match=r"stack\.tif: 2 pages"):
        images.read(save(tmp_path / "stack.tif", GREY, **more))


def test_an_image_too_large_for_pillow_is_refused(tmp_path, monkeypatch):
    path = save(tmp_path / "slide.png", GREY)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4)
    with pytest.raises(DataError, match=r"slide\.png: too large.*cut it into tiles"):
        images.read(path)


def png_of(width, height):
    """Return a PNG that says it is this large and holds one row of nothing."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(2**20))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("size", [(8000, 8000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
@pytest.mark.parametrize("read", [images.read, images.read_label, images.read_grid])
def test_a_bomb_is_refused_by_its_header(tmp_path, size, read):
    (tmp_path / "bomb.png").write_bytes(png_of(*size))
    tracemalloc.start()
    with pytest.raises(DataError, match=r"bomb\.png: (takes .* pixels|too large|truncated)"):
        read(tmp_path / "bomb.png", ReadingOptions(memory_gib=1 / 16))
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_tiff_that_says_it_is_huge_is_refused(tmp_path):
    path = save(tmp_path / "bomb.tif", GREY)
    content = bytearray(path.read_bytes())
    for tag in (256, 257):  # width and height, of 4 bytes
        at = max(content.find(struct.pack("<HH", tag, kind)) for kind in (3, 4))
        struct.pack_into("<HHII", content, at, tag, 4, 1, 50_000)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"bomb\.tif: (takes|too large)"):
        images.read(path)


@pytest.mark.parametrize("kind", ["GIF", "PPM", "ICO", "TGA"])
def test_a_format_that_its_name_does_not_say_is_refused(tmp_path, kind):
    Image.fromarray(GREY).save(tmp_path / "other.png", format=kind)
    with pytest.raises(DataError, match=r"other\.png: truncated or not an image"):
        images.read(tmp_path / "other.png")


@pytest.mark.parametrize("array", [GREY, COLOUR])
def test_a_grid_is_that_of_the_image(tmp_path, array):
    path = save(tmp_path / "image.png", array)
    assert images.read_grid(path).shape == images.read(path).shape


def test_pages_of_different_size_are_no_structures_of_one_image(tmp_path):
    pages = [Image.new("L", size) for size in ((4, 5), (5, 4))]
    pages[0].save(tmp_path / "m.tif", save_all=True, append_images=pages[1:])
    with pytest.raises(DataError, match="its pages differ in size"):
        images.read_pages(tmp_path / "m.tif")


def test_all_pages_together_count_for_the_memory(tmp_path):
    images.write_pages(tmp_path / "m.tif", np.zeros((8, 256, 256), np.uint8))
    images.read_pages(tmp_path / "m.tif", ReadingOptions(memory_gib=0.01))
    with pytest.raises(DataError, match="on 8 pages"):
        images.read_pages(tmp_path / "m.tif", ReadingOptions(memory_gib=0.001))
