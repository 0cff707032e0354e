import base64
import signal

import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    HTJ2K,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from medkd.data.dicom import decoding as module
from medkd.data.dicom.decoding import Decoding
from medkd.data.dicom.volume import read
from medkd.errors import DataError

PIXELS = np.random.default_rng(0).integers(0, 4096, (32, 48)).astype(np.uint16)
SMOOTH = (np.add.outer(np.arange(32), np.arange(48)) * 50).astype(np.uint16)

SLOPE = np.add.outer(np.arange(12) * 20, np.arange(16) * 50).astype(np.uint16)
SLOPE_IN_HTJ2K = base64.b85decode(  # by OpenJPH, lossless; no library here writes it
    "|4;u>04YEK0000G0000C00000000000000G0000C0000000000009pH0sl|{2mk^A000XAQUDA90ssL31q1{@0smY86C"
    "j9?kdTm&kdTm&kdTmwh=~7W02crOPjF>!N>E53R%LP^FfKASE;BCwkN^q*00000cK`wZlfVEbjr|1&bN~Rr0206e5`d5"
    "b2Xp{b0f%$|zyK3K01^Pk#sPwK0GSdq0KfnhFaQNmU@-WgLNNk%09Y&*`@j%^zP13s04pE>7J#BCilX@Eih6K@cL1g_#"
    "u#J%`TziX_5cCwx&Z&#"
)


def compress(plain, path, syntax, *, quality=None):
    """Have GDCM write a file anew in a kind of JPEG that no other library here writes."""
    import gdcm

    reader, writer = gdcm.ImageReader(), gdcm.ImageWriter()
    change, codec = gdcm.ImageChangeTransferSyntax(), gdcm.JPEGCodec()
    reader.SetFileName(str(plain))
    assert reader.Read()
    change.SetTransferSyntax(gdcm.TransferSyntax(getattr(gdcm.TransferSyntax, syntax)))
    if quality:
        codec.SetLossless(False)
        codec.SetQuality(quality)
        change.SetUserCodec(codec)
    change.SetInput(reader.GetImage())
    assert change.Change()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()
    return path


@pytest.fixture
def lossless(tmp_path, kit):
    """A file in lossless JPEG, which GDCM alone reads here."""
    plain = kit.save(tmp_path / "plain.dcm", kit.picture(PIXELS))
    return compress(plain, tmp_path / "lossless.dcm", "JPEGLosslessProcess14_1")


@pytest.fixture
def twelve_bits(tmp_path, kit):
    """A file in lossy JPEG of 12 bits, which pydicom has no decoder for that may be shipped."""
    plain = kit.save(tmp_path / "plain.dcm", kit.picture(SMOOTH, BitsStored=12, HighBit=11))
    return compress(plain, tmp_path / "twelve.dcm", "JPEGExtendedProcess2_4", quality=95)


def damage(path):
    """Change a byte of the compressed stream's header that ends a process which decodes it."""
    frame = next(generate_frames(dcmread(path).PixelData, number_of_frames=1))
    content = bytearray(path.read_bytes())
    content[content.index(frame[:20]) + 6] ^= 0xFF
    broken = path.with_name("broken.dcm")
    broken.write_bytes(content)
    return broken


def test_lossless_jpeg_gives_what_was_compressed(lossless):
    np.testing.assert_array_equal(read(lossless).array.reshape(PIXELS.shape), PIXELS)


@pytest.mark.parametrize("syntax", [HTJ2KLossless, HTJ2KLosslessRPCL, HTJ2K])
def test_high_throughput_jpeg_2000_gives_what_was_compressed(tmp_path, kit, syntax):
    dataset = kit.picture(SLOPE)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([SLOPE_IN_HTJ2K])
    array = read(kit.save(tmp_path / "htj2k.dcm", dataset)).array
    np.testing.assert_array_equal(array.reshape(SLOPE.shape), SLOPE)


def test_lossy_jpeg_of_12_bits_is_near_what_was_compressed(twelve_bits):
    array = read(twelve_bits).array.reshape(SMOOTH.shape)
    np.testing.assert_allclose(array, SMOOTH.astype(int), atol=4)


def test_12_bits_that_are_damaged_are_one_error(twelve_bits):
    content = twelve_bits.read_bytes()
    frame = next(generate_frames(dcmread(twelve_bits).PixelData, number_of_frames=1))
    twelve_bits.write_bytes(content.replace(frame, frame[:2] + bytes(len(frame) - 2)))
    with pytest.raises(DataError, match=r"twelve\.dcm: its (compressed )?pixels"):
        read(twelve_bits)


def test_a_decoder_that_dies_is_one_error_and_the_next_file_is_read(lossless):
    broken = damage(lossless)
    with Decoding(memory_bytes=2**30) as decoding:
        for _ in range(2):
            with pytest.raises(DataError, match=r"broken\.dcm: "):
                list(decoding.frames(broken))
            (frame,) = decoding.frames(lossless)
            np.testing.assert_array_equal(frame, PIXELS)


def test_a_decoder_that_hangs_is_ended_and_the_next_file_is_read(lossless, monkeypatch):
    with Decoding(memory_bytes=2**30) as decoding:
        list(decoding.frames(lossless))
        decoding._process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(module, "LONGEST_S", 0.2)
        with pytest.raises(DataError, match=r"lossless\.dcm: "):
            list(decoding.frames(lossless))
        monkeypatch.undo()
        assert len(list(decoding.frames(lossless))) == 1


def test_what_the_other_process_refuses_is_refused_in_the_same_words(lossless):
    dataset = dcmread(lossless)
    dataset.Rows = 64
    dataset.save_as(lossless)
    with pytest.raises(DataError, match=r"lossless\.dcm: its header says 64x48 pixels, its"):
        read(lossless)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGLSLossless, JPEGLosslessSV1])
@pytest.mark.parametrize(("held", "reason"), [(2, "holds 2"), (4, "holds more")])
def test_frames_are_as_many_as_the_file_says(tmp_path, kit, lossless, syntax, held, reason):
    if syntax == JPEGLosslessSV1:
        dataset = dcmread(lossless)
    else:
        dataset = kit.picture(PIXELS)
        dataset.compress(syntax, generate_instance_uid=False)
    (frame,) = generate_frames(dataset.PixelData, number_of_frames=1)
    dataset.NumberOfFrames = 3
    paths = []
    for count in (3, held):
        dataset.PixelData = encapsulate([frame] * count)
        paths.append(kit.save(tmp_path / f"{count}.dcm", dataset))
    with Decoding(memory_bytes=2**30) as decoding:
        with pytest.raises(DataError, match=rf"{held}\.dcm: .*says it has 3 frames and {reason}"):
            list(decoding.frames(paths[1]))
        np.testing.assert_array_equal(list(decoding.frames(paths[0])), [PIXELS] * 3)


def test_the_other_process_imports_nothing_that_lies_in_the_working_folder(
    lossless, tmp_path, monkeypatch
):
    for name in ("json", "numpy", "pydicom", "medkd"):
        (tmp_path / f"{name}.py").write_text("open('was_run', 'w')")
    monkeypatch.chdir(tmp_path)
    assert read(lossless).array.size == PIXELS.size
    assert not (tmp_path / "was_run").exists()


def test_the_other_process_is_gone_afterwards(lossless):
    with Decoding(memory_bytes=2**30) as decoding:
        list(decoding.frames(lossless))
        process = decoding._process
        assert process.poll() is None
    assert process.poll() is not None


@pytest.mark.parametrize(("kind", "library"), [("lossless", "gdcm"), ("twelve_bits", "gdcm")])
def test_where_a_decoder_is_not_installed_its_extra_is_named(kind, library, request, monkeypatch):
    file = request.getfixturevalue(kind)
    monkeypatch.setattr("medkd.data.dicom.decoding.find_spec", lambda name: None)
    with pytest.raises(DataError, match=rf"need {library}; pip install '\.\[dicom\]'"):
        read(file)
