import csv
import gzip
import re
import struct
import tracemalloc

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medkd.data import nifti
from medkd.data.reader import read_label
from medkd.data.shear import SKEWED_DEGREES, skew_degrees
from medkd.errors import DataError
from medkd.options import ReadingOptions

SPACINGS = st.floats(0.25, 8)
SHEARS = st.floats(-0.4, 0.4)


@st.composite
def affines(draw):
    """Any axis order, flips, spacing, shear and origin."""
    order, signs = draw(st.permutations(range(3))), draw(st.tuples(*[st.sampled_from([-1, 1])] * 3))
    shear = np.eye(3)
    shear[np.triu_indices(3, 1)] = draw(st.tuples(SHEARS, SHEARS, SHEARS))
    affine = np.eye(4)
    spacing = draw(st.tuples(SPACINGS, SPACINGS, SPACINGS))
    affine[:3, :3] = (shear @ np.diag(signs))[:, order] * spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-300, 300)] * 3))
    return affine


@given(affines(), arrays(np.int16, (3, 4, 2)), st.sampled_from([".nii", ".nii.gz"]))
def test_what_is_written_is_read(tmp_path_factory, affine, array, suffix):
    path = tmp_path_factory.mktemp("round") / f"image{suffix}"
    nifti.write(path, array, affine=affine)
    volume = nifti.read(path)
    np.testing.assert_array_equal(volume.array[0], array)
    np.testing.assert_allclose(volume.affine, affine, rtol=1e-6, atol=1e-4)


@given(affines())
def test_a_quaternion_is_written_only_where_it_agrees(tmp_path_factory, affine):
    path = tmp_path_factory.mktemp("header") / "image.nii"
    nifti.write(path, np.zeros((3, 4, 2), np.uint8), affine=affine)
    image = nibabel.load(path)
    assert image.header.get_xyzt_units()[0] == "mm"
    quaternion, code = image.get_qform(coded=True)
    if code:
        np.testing.assert_allclose(quaternion, affine, rtol=1e-3, atol=1e-2)


def test_the_last_axis_of_a_4d_file_is_the_channel(tmp_path):
    array = np.random.default_rng(0).normal(size=(3, 4, 5, 2)).astype(np.float32)
    nifti.write(tmp_path / "image.nii.gz", array, affine=np.eye(4))
    volume = nifti.read(tmp_path / "image.nii.gz")
    np.testing.assert_array_equal(volume.array, np.moveaxis(array, 3, 0))
    assert (volume.dims, volume.shape) == (3, (3, 4, 5))


def test_slope_and_intercept_are_applied(tmp_path):
    image = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4))
    image.header.set_slope_inter(0.5, 100)
    nibabel.save(image, tmp_path / "image.nii")
    stored = np.asarray(nibabel.load(tmp_path / "image.nii").dataobj.get_unscaled())
    actual = nifti.read(tmp_path / "image.nii").array[0]
    np.testing.assert_allclose(actual, 0.5 * stored + 100)


@pytest.mark.parametrize(
    ("kind", "suffix"), [("Nifti1Pair", ".hdr"), ("Nifti1Pair", ".img"), ("Nifti2Image", ".nii.gz")]
)
def test_pairs_and_nifti_2_are_read(tmp_path, kind, suffix):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    nibabel.save(getattr(nibabel, kind)(array, np.diag([2, 3, 4, 1])), tmp_path / f"i{suffix}")
    volume = nifti.read(tmp_path / f"i{suffix}")
    np.testing.assert_array_equal(volume.array[0], array)
    assert volume.spacing_mm == (2, 3, 4)


def test_writing_leaves_one_whole_file_and_makes_its_folder(tmp_path):
    path = tmp_path / "new" / "folder" / "mask.nii.gz"
    for value in (1, 2):
        nifti.write(path, np.full((2, 2, 2), value, np.uint8), affine=np.eye(4))
        assert [p.name for p in path.parent.iterdir()] == ["mask.nii.gz"]
        assert nifti.read(path).array.max() == value


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.95])
def test_a_truncated_file_is_refused(tmp_path, suffix, share):
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"part{suffix}"
    noise = np.random.default_rng(0).normal(size=(9, 9, 9))
    nifti.write(whole, noise, affine=np.eye(4))
    content = whole.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=rf"part{suffix}: truncated or not a NIfTI.*copy it again"):
        nifti.read(path)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".hdr"])
@pytest.mark.parametrize("content", [b"", b"not a volume " * 100, b"\x5c\x01" + bytes(700)])
def test_what_is_not_nifti_is_refused(tmp_path, suffix, content):
    path = tmp_path / f"other{suffix}"
    path.write_bytes(content)
    (tmp_path / "other.img").touch()
    with pytest.raises(DataError, match=f"other{suffix}: truncated or not a NIfTI"):
        nifti.read(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"gone\.nii\.gz: no such file"):
        nifti.read(tmp_path / "gone.nii.gz")


@pytest.mark.parametrize("shape", [(5,), (5, 6), (2, 2, 2, 2, 3)])
def test_neither_3d_nor_4d_is_refused(tmp_path, shape):
    nibabel.save(nibabel.Nifti1Image(np.zeros(shape, np.uint8), np.eye(4)), tmp_path / "i.nii")
    with pytest.raises(DataError, match=r"i\.nii: shape .* 3 axes, or 4"):
        nifti.read(tmp_path / "i.nii")


def test_a_picture_that_is_placed_twice_is_refused_as_one(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((5, 6), np.uint8), np.eye(4))
    image.set_sform(MOVED, code=1)
    image.set_qform(np.eye(4), code=1)
    nibabel.save(image, tmp_path / "i.nii")
    for read in (nifti.read, nifti.read_grid):
        with pytest.raises(DataError, match=r"i\.nii: shape .* 3 axes, or 4"):
            read(tmp_path / "i.nii")


@pytest.mark.parametrize("dtype", [np.complex64, [("R", "u1"), ("G", "u1"), ("B", "u1")]])
def test_voxels_that_are_no_numbers_are_refused(tmp_path, dtype):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), dtype), np.eye(4))
    nibabel.save(image, tmp_path / "odd.nii")
    with pytest.raises(DataError, match=r"odd\.nii: voxels of type .* one number a voxel"):
        nifti.read(tmp_path / "odd.nii")


def test_an_affine_that_places_no_voxel_is_refused(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    for row in ("srow_x", "srow_y", "srow_z"):
        image.header[row] = 0
    image.to_filename(tmp_path / "flat.nii")
    raw = bytearray((tmp_path / "flat.nii").read_bytes())
    raw[280:328] = bytes(48)  # sform rows, which nibabel writes from the affine
    (tmp_path / "flat.nii").write_bytes(raw)
    with pytest.raises(DataError, match=r"flat\.nii: its affine does not place voxels .* correct"):
        nifti.read(tmp_path / "flat.nii")


def test_half_a_pair_is_refused(tmp_path):
    nibabel.save(nibabel.Nifti1Pair(np.zeros((2, 2, 2), np.uint8), np.eye(4)), tmp_path / "i.hdr")
    (tmp_path / "i.img").unlink()
    with pytest.raises(DataError, match=r"i\.hdr: without i\.img; a NIfTI pair needs both"):
        nifti.read(tmp_path / "i.hdr")


def test_bytes_come_in_the_order_of_the_machine(tmp_path):
    array = np.arange(24, dtype=">i2").reshape(2, 3, 4)
    nibabel.save(nibabel.Nifti1Image(array, np.eye(4)), tmp_path / "big.nii")
    volume = nifti.read(tmp_path / "big.nii")
    np.testing.assert_array_equal(volume.array[0], array)
    assert volume.array.dtype.isnative


@given(affines())
def test_a_grid_is_that_of_the_volume(tmp_path_factory, affine):
    path = tmp_path_factory.mktemp("grid") / "image.nii"
    nifti.write(path, np.zeros((3, 4, 2, 2), np.uint8), affine=affine)
    for options in (ReadingOptions(), ReadingOptions(shear_correct=True)):
        volume, grid = nifti.read(path, options), nifti.read_grid(path, options)
        assert grid.shape == volume.shape
        np.testing.assert_allclose(grid.affine, volume.affine)
    assert skew_degrees(volume.affine) <= SKEWED_DEGREES


def header_of(shape, *, extension=None, offset=352):
    """Return the bytes of a header that says what it is told to."""
    image = nibabel.Nifti1Image(np.zeros((1, 1, 1), np.float64), np.eye(4))
    raw = bytearray(image.to_bytes()[:352])
    struct.pack_into("<8h", raw, 40, len(shape), *shape, *[1] * (7 - len(shape)))
    struct.pack_into("<f", raw, 108, offset)
    if extension is not None:
        raw[348] = 1
        raw += struct.pack("<ii", extension, 6) + bytes(24)
    return bytes(raw)


def test_a_bomb_is_refused_by_its_header(tmp_path):
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(header_of((32767, 32767, 32767)) + bytes(2**20)))
    with pytest.raises(DataError, match=r"bomb\.nii\.gz: takes .* GiB \(32767x32767x32767 voxels"):
        nifti.read(path)
    with pytest.raises(DataError, match=r"bomb\.nii\.gz: takes"):
        nifti.read_grid(path)


def test_memory_is_what_the_config_allows(tmp_path):
    nifti.write(tmp_path / "i.nii", np.zeros((64, 64, 64), np.float32), affine=np.eye(4))
    assert nifti.read(tmp_path / "i.nii", ReadingOptions(memory_gib=2**-10)).shape == (64, 64, 64)
    with pytest.raises(DataError, match=r"takes 0\.000977 GiB .* allows 0\.000488"):
        nifti.read(tmp_path / "i.nii", ReadingOptions(memory_gib=2**-11))


def test_what_is_scaled_takes_the_memory_of_floats(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((64, 64, 64), np.uint8), np.eye(4))
    image.header.set_slope_inter(0.5, 1)
    nibabel.save(image, tmp_path / "i.nii")
    with pytest.raises(DataError, match=r"takes 0\.00195 GiB"):
        nifti.read(tmp_path / "i.nii", ReadingOptions(memory_gib=2**-10))
    volume = nifti.read(tmp_path / "i.nii", ReadingOptions(memory_gib=2**-9))
    assert volume.array.dtype == np.float64
    assert set(volume.array.ravel()) == {1.0}


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".NII.GZ"])
def test_a_file_is_written_as_nibabel_writes_it(tmp_path, suffix):
    """But for its qform, which nibabel leaves out, and codes."""
    rng = np.random.default_rng(0)
    affine = np.array([[0, -2.0, 0, 7], [1.5, 0, 0, -3], [0, 0, 4, 1], [0, 0, 0, 1]])
    for array in (
        rng.integers(0, 9, (5, 6, 7), np.uint8),
        np.asfortranarray(rng.normal(size=(5, 6, 7)).astype(np.float32)),
        rng.integers(0, 900, (5, 6, 7, 2), np.uint16)[:, ::2],
        rng.integers(-900, 900, (5, 6, 7)).astype(">i2"),
    ):
        nifti.write(tmp_path / f"own{suffix}", array, affine=affine)
        nibabel.save(nibabel.Nifti1Image(array, affine), tmp_path / f"its{suffix}")
        own, its = (nibabel.load(tmp_path / f"{name}{suffix}") for name in ("own", "its"))
        np.testing.assert_array_equal(np.asanyarray(own.dataobj), np.asanyarray(its.dataobj))
        np.testing.assert_allclose(own.get_qform(coded=True)[0], affine, atol=1e-5)
        np.testing.assert_array_equal(own.get_sform(coded=True)[0], its.affine)
        assert own.header["qform_code"] == own.header["sform_code"] == 1
        assert own.get_data_dtype() == its.get_data_dtype()
        for field in ("dim", "pixdim", "vox_offset", "magic", "scl_slope", "scl_inter"):
            np.testing.assert_array_equal(own.header[field], its.header[field])


def test_a_shape_that_is_none_is_one_error(tmp_path):
    """nibabel reads a negative second axis as a sign of FreeSurfer's, whose size lies elsewhere."""
    header = bytearray(header_of((2, 2, 2)))
    struct.pack_into("<4h", header, 40, 3, -1, 1, 1)
    struct.pack_into("<i", header, 144, 0)
    (tmp_path / "odd.nii").write_bytes(bytes(header) + bytes(64))
    for read in (nifti.read, nifti.read_grid):
        with pytest.raises(DataError, match=r"odd\.nii: "):
            read(tmp_path / "odd.nii")


def test_equal_voxels_are_equal_bytes(tmp_path):
    for name in ("one", "other"):
        nifti.write(tmp_path / f"{name}.nii.gz", np.eye(9, dtype=np.uint8), affine=np.eye(4))
    assert (tmp_path / "one.nii.gz").read_bytes() == (tmp_path / "other.nii.gz").read_bytes()


@pytest.mark.parametrize("extension", [-1, 0, 8, 2**30])
def test_an_extension_that_lies_about_its_size_is_passed_over(tmp_path, extension):
    """nibabel reads to the end of the stream for -1, and as much as is said for the others."""
    path = tmp_path / "lie.nii.gz"
    start = header_of((2, 2, 2), extension=extension, offset=384)
    path.write_bytes(gzip.compress(start + bytes(2**26)))
    tracemalloc.start()
    assert nifti.read(path).shape == (2, 2, 2)
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_the_text_of_an_extension_is_not_parsed(tmp_path):
    image = nibabel.Nifti2Image(np.zeros((2, 2, 2), np.uint8), np.eye(4))
    bomb = b"<!DOCTYPE x [<!ENTITY a 'aaaa'>]><CIFTI>&a;"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(32, bomb))
    nibabel.save(image, tmp_path / "xml.nii")
    assert nifti.read(tmp_path / "xml.nii").shape == (2, 2, 2)


def test_analyze_is_refused_by_name(tmp_path):
    nibabel.AnalyzeImage(np.zeros((2, 2, 2), np.uint8), np.eye(4)).to_filename(tmp_path / "a.img")
    with pytest.raises(DataError, match=r"a\.hdr: .*Analyze 7\.5, .* left from right"):
        nifti.read(tmp_path / "a.hdr")


@pytest.mark.parametrize(("unit", "in_mm"), [("meter", 1000), ("mm", 1), ("micron", 1e-3)])
def test_places_are_in_the_unit_that_the_header_tells(tmp_path, unit, in_mm):
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.diag([1, 2, 3, 1]))
    image.header.set_xyzt_units(unit, "sec")
    nibabel.save(image, tmp_path / "image.nii")
    for volume in (nifti.read(tmp_path / "image.nii"), nifti.read_grid(tmp_path / "image.nii")):
        np.testing.assert_allclose(volume.affine, np.diag([in_mm, 2 * in_mm, 3 * in_mm, 1]))


def turned(degrees):
    affine = np.eye(4)
    cosine, sine = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine[:2, :2] = [[cosine, -sine], [sine, cosine]]
    return affine


MOVED = np.array([[1.0, 0, 0, 3], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
SKEWED = np.array([[1.0, 0, 0, 0], [0, 1, 0.5, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


@pytest.fixture
def in_two_forms(tmp_path):
    """Return a writer of a file whose qform is the identity and whose sform is given."""

    def write(sform, *, codes):
        image = nibabel.Nifti1Image(np.zeros((20, 3, 4), np.uint8), np.eye(4))
        image.set_sform(sform, code=codes[1])
        image.set_qform(np.eye(4), code=codes[0])
        nibabel.save(image, tmp_path / "i.nii")
        return tmp_path / "i.nii"

    return write


@pytest.mark.parametrize(
    ("sform", "codes", "reason"),
    [
        (np.diag([-1.0, 1, 1, 1]), (1, 1), "which side is left"),
        (np.diag([-1.0, 1, 1, 1]), (1, 4), "which side is left"),
        (np.diag([2.0, 2, 2, 1]), (1, 1), r"how large a voxel is \(1x1x1 and 2x2x2\)"),
        (np.diag([2.0, 2, 2, 1]), (1, 2), "how large a voxel is"),
    ],
)
def test_a_header_with_two_places_for_a_voxel_is_refused(in_two_forms, sform, codes, reason):
    path = in_two_forms(sform, codes=codes)
    with pytest.raises(DataError, match=rf"i\.nii: its qform and its sform disagree on {reason}"):
        nifti.read(path)
    assert nifti.read(in_two_forms(sform, codes=(0, 1))).shape == (20, 3, 4)


@pytest.mark.parametrize(
    ("sform", "codes", "apart"),
    [(turned(10), (1, 1), r"3\.\d+"), (MOVED, (2, 2), "3"), (turned(90), (1, 1), r"[\d.]+")],
)
def test_of_two_places_in_one_space_it_is_told_which_was_taken(in_two_forms, sform, codes, apart):
    volume = nifti.read(in_two_forms(sform, codes=codes))  # SPM moves the sform alone
    np.testing.assert_allclose(volume.affine, sform, atol=1e-6)
    (told,) = volume.remedies
    assert re.search(f"place voxels up to {apart} apart; the sform is taken", told)


def test_a_turn_that_thick_slices_hide_is_told(tmp_path):
    edges = np.diag([0.3, 0.3, 6, 1])
    image = nibabel.Nifti1Image(np.zeros((1024, 3, 2), np.uint8), edges)
    image.set_sform(turned(0.11) @ edges, code=1)  # three voxels at the end of a line
    image.set_qform(edges, code=1)
    nibabel.save(image, tmp_path / "i.nii")
    (told,) = nifti.read(tmp_path / "i.nii").remedies
    assert re.search(r"place voxels up to 0\.\d+ apart", told)


@pytest.mark.parametrize(
    ("sform", "codes"),
    [
        (np.diag([1.1, 1.1, 1.2, 1]), (1, 4)),  # stretched to fit a template
        (turned(50), (1, 4)),
        (turned(10), (1, 2)),  # registered to something
        (MOVED, (1, 4)),
        (turned(0.1), (1, 1)),
        (SKEWED, (1, 1)),  # as dcm2niix writes a tilted gantry
    ],
)
def test_two_forms_that_may_both_be_right_are_read_by_the_sform(in_two_forms, sform, codes):
    path = in_two_forms(sform, codes=codes)
    if sform is SKEWED:
        image = nibabel.load(path)
        image.set_qform(sform, code=1, strip_shears=True)
        nibabel.save(image, path)
    np.testing.assert_allclose(nifti.read(path).affine, sform, atol=1e-6)


def test_an_orientation_that_no_header_gives_is_told(tmp_path):
    image = nibabel.Nifti1Image(np.zeros((2, 3, 4), np.uint8), None)
    nibabel.save(image, tmp_path / "i.nii")
    volume = nifti.read(tmp_path / "i.nii")
    assert "".join(nibabel.aff2axcodes(volume.affine)) == "LAS"
    (told,) = volume.remedies
    assert told.startswith("orientation: its header codes neither qform nor sform")
    nifti.write(tmp_path / "i.nii", volume.array[0], affine=volume.affine)
    assert nifti.read(tmp_path / "i.nii").remedies == ()


def test_a_label_map_that_is_scaled_is_whole_but_for_rounding(tmp_path):
    stored = 1000 * np.arange(24).reshape(2, 3, 4)
    image = nibabel.Nifti1Image(stored.astype(np.int16), np.eye(4))
    image.header.set_slope_inter(1e-3, 0)  # as float32 it is 0.0010000000475
    nibabel.save(image, tmp_path / "label.nii")
    np.testing.assert_array_equal(read_label(tmp_path / "label.nii").array[0], stored // 1000)


@pytest.mark.parametrize("offset", [-1, 1e9, 1e30, np.nan, np.inf])
def test_voxels_that_start_nowhere_are_refused(tmp_path, offset):
    path = tmp_path / "far.nii"
    path.write_bytes(header_of((2, 2, 2), offset=offset) + bytes(64))
    with pytest.raises(DataError, match=r"far\.nii: truncated or not a NIfTI file"):
        nifti.read(path)


@pytest.mark.parametrize(
    ("kind", "at", "size"), [("Nifti1Image", 108, 4), ("Nifti2Image", 168, 8)], ids=["1", "2"]
)
@pytest.mark.parametrize("offset", [0, 100])
def test_a_header_is_not_read_as_voxels(tmp_path, kind, at, size, offset):
    path = tmp_path / "i.nii"
    nibabel.save(getattr(nibabel, kind)(np.ones((20, 20, 20), np.int16), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[at : at + size] = struct.pack("<f" if size == 4 else "<q", offset)
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"i\.nii: .* start at byte {offset}, within its header"):
        nifti.read(path)


@pytest.mark.parametrize(("suffix", "magic"), [(".nii", b"ni1"), (".hdr", b"n+1")])
def test_a_header_of_a_pair_belongs_to_a_pair(tmp_path, suffix, magic):
    path = tmp_path / f"i{suffix}"
    nibabel.save(nibabel.Nifti1Image(np.ones((20, 20, 20), np.int16), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[344:347] = magic
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"i\{suffix}: its header is that of .*; save it anew"):
        nifti.read(path)


@pytest.mark.parametrize("shape", [(0, 2, 2), (-3, 2, 2), (2, 2, 0)])
def test_a_shape_without_voxels_is_refused(tmp_path, shape):
    path = tmp_path / "none.nii"
    path.write_bytes(header_of(shape) + bytes(64))
    with pytest.raises(DataError, match=r"none\.nii: "):
        nifti.read(path)


REFUSED = {
    "nibabel/nifti1.hdr": r"without nifti1\.img",
    "nibabel/analyze.hdr": r"without analyze\.img",
    "nibabel/row_major.dconn.nii": "shape|its voxels are said to start",
    "derived/t2_truncated.nii.gz": "truncated or not a NIfTI file",
}
NO_LABELS = {
    "sct/mt1_gmseg.nii.gz": "fractions",
    "sct/mtr.nii.gz": "NaN or infinity",
    "sct/dmri.nii.gz": "7 channels",
}


@pytest.mark.data
def test_every_real_file_is_read_as_nibabel_reads_it_or_refused(data_root):
    root = data_root / "nifti_odd"
    with (root / "manifest.csv").open(newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert rows.keys() >= REFUSED.keys()
    for name, row in rows.items():
        if name in REFUSED:
            with pytest.raises(DataError, match=REFUSED[name]):
                nifti.read(root / name)
            continue
        volume, image = nifti.read(root / name), nibabel.load(root / name)
        channels = np.moveaxis(image.get_fdata(), 3, 0) if image.ndim == 4 else image.get_fdata()
        np.testing.assert_allclose(volume.array, channels.reshape(volume.array.shape))
        np.testing.assert_array_equal(volume.affine, image.affine)
        assert "".join(nibabel.aff2axcodes(volume.affine)) == row["orientation"]
        told = [float(v) for v in row["spacing"].split("x")[:3]]
        np.testing.assert_allclose(volume.spacing_mm, told, atol=1e-3)
        assert "x".join(map(str, volume.shape)) == "x".join(row["shape"].split("x")[:3])


@pytest.mark.data
def test_real_label_maps_are_whole_numbers_or_refused(data_root):
    root = data_root / "nifti_odd"
    whole = read_label(root / "sct/t2_seg-manual_labeled.nii.gz")
    assert sorted(set(whole.array.ravel().tolist())) == [0, 2, 3, 4, 5]
    organs = read_label(root / "ct_organs/example_seg_fast_force_split.nii.gz")
    assert len(np.unique(organs.array)) == 62
    for name, reason in NO_LABELS.items():
        with pytest.raises(DataError, match=reason):
            read_label(root / name)
