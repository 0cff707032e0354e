import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from medkd.data import nifti
from medkd.errors import DataError

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


READABLE = "nibabel/[ae]*.nii* nibabel/[fs]*.nii* sct/*.nii.gz derived/*_wrong_*.gz derived/*.hdr"
DAMAGED = "nibabel/*.hdr nibabel/*.dconn.nii derived/t2_truncated.nii.gz"


def found(data_root, patterns):
    files = [p for pattern in patterns.split() for p in (data_root / "nifti_odd").glob(pattern)]
    assert len(files) > 2
    return files


@pytest.mark.data
def test_odd_files_are_read_as_nibabel_reads_them(data_root):
    for path in found(data_root, READABLE):
        volume, image = nifti.read(path), nibabel.load(path)
        channels = np.moveaxis(image.get_fdata(), 3, 0) if image.ndim == 4 else image.get_fdata()
        np.testing.assert_allclose(volume.array, channels.reshape(volume.array.shape))
        np.testing.assert_array_equal(volume.affine, image.affine)


@pytest.mark.data
def test_damaged_files_are_refused(data_root):
    for path in found(data_root, DAMAGED):
        with pytest.raises(DataError, match="truncated or not a NIfTI"):
            nifti.read(path)
