import io

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000, JPEGBaseline8Bit, RLELossless

from medkd.data.dicom.codestream import declared
from medkd.data.dicom.volume import read
from medkd.errors import DataError
from medkd.options import ReadingOptions

FORMATS = {"JPEG": JPEGBaseline8Bit, "JPEG2000": JPEG2000}


def compressed(kind, shape):
    buffer = io.BytesIO()
    options = {"no_jp2": True} if kind == "JPEG2000" else {"progressive": True}
    Image.fromarray(np.zeros(shape, np.uint8)).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("shape", [(40, 56), (64, 32, 3)])
def test_a_codestream_tells_its_size(kind, shape):
    assert declared(compressed(kind, shape)) == (*shape[:2], 3 if len(shape) == 3 else 1)


def test_the_size_in_a_jp2_file_is_that_of_its_codestream():
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((40, 56), np.uint8)).save(buffer, "JPEG2000")
    assert declared(buffer.getvalue()) == (40, 56, 1)


@pytest.mark.parametrize("content", ["", "ffd8", "ffd8ffc0", "ff4fff51", "3f"])
def test_what_tells_no_size_has_none(content):
    assert declared(bytes.fromhex(content)) is None


@pytest.mark.parametrize("kind", FORMATS)
def test_pixels_that_unpack_to_more_than_the_header_says_are_refused(tmp_path, kit, kind):
    frame = compressed(kind, (2048, 2048))
    dataset = kit.picture(np.zeros((64, 64), np.uint8), PixelData=encapsulate([frame]))
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = FORMATS[kind]
    path = kit.save(tmp_path / "bomb.dcm", dataset)
    with pytest.raises(DataError, match=r"says 64x64 pixels, its compressed pixels say 2048x2048"):
        read(path)


def test_run_lengths_that_could_unpack_to_too_much_are_refused(tmp_path, kit):
    dataset = kit.picture(np.zeros((64, 64), np.uint8))
    frame = bytes(3 * 2**20)
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = RLELossless
    path = kit.save(tmp_path / "runs.dcm", dataset)
    with pytest.raises(DataError, match=r"runs\.dcm: takes 0\.188 GiB"):
        read(path, ReadingOptions(memory_gib=0.125))


def test_rows_and_columns_that_are_too_many_are_refused_before_decoding(tmp_path, kit):
    path = kit.save(tmp_path / "wide.dcm", kit.picture(np.zeros((4, 4), np.uint8)))
    dataset = dcmread(path)
    dataset.Rows = dataset.Columns = 65_535
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"wide\.dcm: takes 32 GiB"):
        read(path)
