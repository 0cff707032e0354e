import io

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from medkd.data.dicom.volume import read
from medkd.errors import DataError

RNG = np.random.default_rng(1)
GREY = RNG.integers(0, 4096, (6, 7)).astype(np.uint16)
COLOUR = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)


@pytest.fixture
def values(tmp_path, kit):
    """Return a reader of a picture that is written with some attributes."""

    def write_and_read(pixels, **changes):
        return read(kit.save(tmp_path / "picture.dcm", kit.picture(pixels, **changes))).array

    return write_and_read


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
def test_stored_integers_are_read_as_they_are(values, dtype):
    pixels = RNG.integers(*(np.iinfo(dtype).min, np.iinfo(dtype).max), (5, 8)).astype(dtype)
    read_back = values(pixels)
    np.testing.assert_array_equal(read_back[0], pixels)
    assert read_back.dtype == dtype


def test_a_whole_intercept_keeps_integers_and_a_fraction_makes_floats(values):
    hounsfield = values(GREY, Modality="CT", RescaleSlope=1, RescaleIntercept=-1024)
    np.testing.assert_array_equal(hounsfield[0], GREY.astype(int) - 1024)
    assert hounsfield.dtype == np.int32
    uptake = values(GREY, Modality="PT", RescaleSlope=0.37, RescaleIntercept=2)
    np.testing.assert_allclose(uptake[0], 0.37 * GREY + 2, rtol=1e-6)
    assert uptake.dtype == np.float32


def modality_lut(table):
    from pydicom import Dataset, Sequence

    lut = Dataset()
    lut.LUTDescriptor, lut.LUTData = [len(table), 0, 16], table.tobytes()
    lut.LUTExplanation, lut.ModalityLUTType = "none", "US"
    lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "OW"
    return Sequence([lut])


def test_a_modality_lut_is_looked_up(values):
    table = (np.arange(4096)[::-1] * 2).astype(np.uint16)
    shown = values(GREY, ModalityLUTSequence=modality_lut(table))
    np.testing.assert_array_equal(shown[0], table[GREY])


def test_monochrome1_is_turned_after_it_is_looked_up_as_highdicom_does(tmp_path, kit):
    import highdicom as hd

    table = (np.arange(1024) * 2 + 100).astype(np.uint16)
    pixels = (GREY // 4).astype(np.uint16)
    changes = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    changes["ModalityLUTSequence"] = modality_lut(table)
    path = kit.save(tmp_path / "x.dcm", kit.slice_of(0, pixels=pixels, Modality="CR", **changes))
    other = hd.get_volume_from_series([dcmread(path)])
    np.testing.assert_array_equal(read(path).array[0], other.array)
    np.testing.assert_array_equal(other.array[0], 2246 - table[pixels])


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": 0.5, "RescaleIntercept": 3}])
def test_monochrome1_is_turned_bright_as_highdicom_does(tmp_path, kit, dtype, rescale):
    import highdicom as hd

    pixels = (GREY.astype(int) - (2048 if dtype is np.int16 else 0)).astype(dtype)
    changes = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    path = kit.save(tmp_path / "x.dcm", kit.slice_of(0, pixels=pixels, **changes, **rescale))
    other = hd.get_volume_from_series([dcmread(path)])
    np.testing.assert_allclose(read(path).array[0], other.array, rtol=1e-6)
    plain = kit.save(tmp_path / "y.dcm", kit.slice_of(0, pixels=pixels, **rescale))
    assert np.corrcoef(read(path).array.ravel(), read(plain).array.ravel())[0, 1] < -0.999


def test_quantities_are_not_turned_round(values):
    plain = values(GREY, Modality="CT")
    inverse = values(GREY, Modality="CT", PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(plain, inverse)


@pytest.mark.parametrize(
    ("dtype", "padding", "limit"),
    [(np.int16, -2000, None), (np.int16, -2000, -1500), (np.uint16, 63536, None)],
)
def test_padding_takes_the_lowest_value_that_was_measured(values, dtype, padding, limit):
    measured = (GREY // 8).astype(dtype)
    pixels = measured.copy()
    pixels[:, 0] = padding
    pixels[0, 0] = limit or padding
    changes = {"PixelPaddingValue": padding, "RescaleSlope": 2, "RescaleIntercept": -100}
    if limit:
        changes["PixelPaddingRangeLimit"] = limit
    shown = values(pixels, **changes)[0]
    np.testing.assert_array_equal(shown[:, 1:], measured[:, 1:] * 2.0 - 100)
    assert (shown[:, 0] == shown[:, 1:].min()).all()


def test_padding_written_with_the_wrong_sign_is_padding(tmp_path, kit):
    """63536 in a signed picture is -2000: writers mistake one for the other."""
    pixels = (GREY // 8).astype(np.int16)
    pixels[0] = -2000
    dataset = kit.picture(pixels)
    dataset.add_new("PixelPaddingValue", "US", 63536)
    shown = read(kit.save(tmp_path / "p.dcm", dataset)).array
    assert shown.min() >= 0


def test_padding_of_dark_is_dark_in_monochrome1(values):
    pixels = (GREY % 4000).astype(np.uint16)
    pixels[0] = 4095
    changes = {"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    shown = values(pixels, PixelPaddingValue=4095, **changes)[0]
    assert (shown[0] == shown[1:].min()).all()


def test_an_overlay_in_unused_bits_is_not_part_of_the_picture(values):
    changes = {"BitsStored": 12, "HighBit": 11}
    shown = values(GREY | (RNG.integers(0, 2, GREY.shape) << 15).astype(np.uint16), **changes)
    np.testing.assert_array_equal(shown[0], GREY)


def test_planes_and_pixels_give_the_same_colours(values):
    by_pixel = values(COLOUR)
    planes = {"PlanarConfiguration": 1, "PixelData": np.moveaxis(COLOUR, 2, 0).tobytes()}
    np.testing.assert_array_equal(by_pixel, np.moveaxis(COLOUR, 2, 0))
    np.testing.assert_array_equal(values(COLOUR, **planes), by_pixel)
    assert by_pixel.dtype == np.uint8


@pytest.mark.parametrize("kind", ["YBR_FULL", "YBR_FULL_422"])
def test_luminance_and_chrominance_become_red_green_blue(values, kind):
    smooth = np.dstack([np.tile(np.linspace(low, 200, 8), (6, 1)) for low in (40, 90, 140)])
    picture = Image.fromarray(smooth.astype(np.uint8))
    ybr = np.asarray(picture.convert("YCbCr"))
    stored = ybr
    if kind == "YBR_FULL_422":
        stored = np.stack(
            [ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], axis=-1
        )
    shown = values(ybr, PhotometricInterpretation=kind, PixelData=stored.tobytes())
    tolerance = 2 if kind == "YBR_FULL" else 12  # chrominance of every second pixel
    np.testing.assert_allclose(np.moveaxis(shown, 0, 2), np.asarray(picture), atol=tolerance)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_is_looked_up(values, bits):
    table = RNG.integers(0, 256, (3, 256)).astype(np.uint8)
    stored = table if bits == 8 else (table.astype(np.uint16) << 8)
    changes = {"PhotometricInterpretation": "PALETTE COLOR"}
    for name, row in zip(("Red", "Green", "Blue"), stored, strict=True):
        changes[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        changes[f"{name}PaletteColorLookupTableData"] = row.tobytes()
    pixels = COLOUR[..., 0]
    np.testing.assert_array_equal(values(pixels, **changes), table[:, pixels])


@pytest.mark.parametrize(
    "syntax",
    [
        *(ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian),
        *(RLELossless, JPEG2000Lossless),
    ],
    ids=lambda syntax: syntax.name,
)
@pytest.mark.parametrize("pixels", [GREY, (GREY.astype(int) - 2048).astype(np.int16), COLOUR])
def test_every_lossless_syntax_gives_the_same_values(tmp_path, kit, syntax, pixels):
    pixels = np.tile(pixels, (8, 8, 1)[: pixels.ndim])  # as large as JPEG 2000 asks for
    dataset = kit.picture(pixels)
    if syntax.is_compressed and not syntax.is_deflated:
        dataset.compress(syntax, generate_instance_uid=False)
    else:
        if syntax == ExplicitVRBigEndian:
            dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
        dataset.file_meta.TransferSyntaxUID = syntax
    shown = read(kit.save(tmp_path / "s.dcm", dataset)).array
    expected = np.moveaxis(pixels, 2, 0) if pixels.ndim == 3 else pixels[None]
    np.testing.assert_array_equal(shown, expected)


def test_baseline_jpeg_is_near_what_was_compressed(tmp_path, kit):
    smooth = np.add.outer(np.arange(32), np.arange(48)).astype(np.uint8) * 3
    buffer = io.BytesIO()
    Image.fromarray(smooth).save(buffer, "JPEG", quality=95)
    dataset = kit.picture(smooth, PixelData=encapsulate([buffer.getvalue()]))
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    shown = read(kit.save(tmp_path / "j.dcm", dataset)).array[0]
    np.testing.assert_allclose(shown, smooth, atol=6)


def test_a_rescale_without_a_number_is_refused(tmp_path, kit):
    dataset = kit.picture(GREY)
    dataset.add_new("RescaleSlope", "DS", "1e999")
    dataset.add_new("RescaleIntercept", "DS", "0")
    with pytest.raises(DataError, match=r"r\.dcm: .*(infinite|cannot be read)"):
        read(kit.save(tmp_path / "r.dcm", dataset))
