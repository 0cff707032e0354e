import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medkd.data import nifti
from medkd.data.reader import read_image, read_label, stem, suffix, write_mask, write_masks
from medkd.errors import DataError

AFFINE = np.array([[0, -2, 0, 5], [3, 0, 0, 6], [0, 0, 4, 7], [0, 0, 0, 1.0]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("scan.nii.gz", ("scan", ".nii.gz")),
        ("scan.v2.NII.GZ", ("scan.v2", ".nii.gz")),
        ("scan.PNG", ("scan", ".png")),
        ("IM-0001.dcm", ("IM-0001", ".dcm")),
    ],
)
def test_a_name_is_its_stem_and_its_suffix(name, expected):
    assert (stem(Path("a.b") / name), suffix(Path("a.b") / name)) == expected


@pytest.mark.parametrize("name", ["series", "1.2.840.10008", "patient.7"])
def test_what_is_no_format_stays_in_the_stem(name):
    assert stem(Path(name)) == name


@pytest.mark.parametrize("value", [3, 255, 256, 40000])
@pytest.mark.parametrize("name", ["mask.nii", "mask.nii.gz", "mask.png"])
def test_a_mask_is_read_as_it_was_written(tmp_path, name, value):
    mask = np.zeros((4, 5) if name.endswith("png") else (4, 5, 6), int)
    mask[1, 2] = value
    write_mask(tmp_path / name, mask, affine=AFFINE)
    volume = read_label(tmp_path / name)
    np.testing.assert_array_equal(volume.array[0], mask)
    assert volume.array.dtype == (np.uint8 if value < 256 else np.uint16)
    np.testing.assert_array_equal(volume.affine, np.eye(3) if mask.ndim == 2 else AFFINE)


@pytest.mark.parametrize(
    ("name", "shape", "remedy"),
    [("m.png", (2, 2, 2), ".nii or .nii.gz"), ("m.nii", (2, 2), ".png"), ("m", (2, 2), ".png")],
)
def test_a_name_that_cannot_hold_the_mask_is_refused(tmp_path, name, shape, remedy):
    with pytest.raises(DataError, match=f"{name}: a {len(shape)}D mask .* ends in {remedy}"):
        write_mask(tmp_path / name, np.zeros(shape, int), affine=AFFINE)
    assert not list(tmp_path.iterdir())


def test_a_label_of_whole_floats_is_a_label(tmp_path):
    nifti.write(tmp_path / "l.nii", np.full((2, 2, 2), 3.0), affine=np.eye(4))
    assert (read_label(tmp_path / "l.nii").array == 3).all()


@pytest.mark.parametrize(("value", "reason"), [(0.5, "fractions"), (np.nan, "NaN")])
def test_a_label_that_is_not_whole_numbers_is_refused(tmp_path, value, reason):
    nifti.write(tmp_path / "soft.nii", np.full((2, 2, 2), value), affine=np.eye(4))
    with pytest.raises(DataError, match=f"soft.nii: the label map holds {reason}"):
        read_label(tmp_path / "soft.nii")


def test_a_label_of_several_channels_is_refused(tmp_path):
    nifti.write(tmp_path / "two.nii", np.zeros((3, 3, 3, 2), np.uint8), affine=np.eye(4))
    with pytest.raises(DataError, match=r"two\.nii: 2 channels; a label map has one"):
        read_label(tmp_path / "two.nii")


def test_a_palette_label_gives_indices_and_a_palette_image_colours(tmp_path):
    indexed = Image.fromarray(np.array([[0, 2], [2, 0]], np.uint8))
    indexed.putpalette([0, 0, 0, 9, 9, 9, 250, 0, 0])
    indexed.save(tmp_path / "label.png")
    assert read_label(tmp_path / "label.png").array.max() == 2
    assert read_image(tmp_path / "label.png").array.shape[0] == 3


@pytest.mark.parametrize("name", ["gone.nii.gz", "gone.png", "gone.dcm", "gone"])
def test_a_missing_file_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=f"{name}: no such file"):
        read_image(tmp_path / name)


def test_an_unknown_format_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match=r"notes\.txt: not NIfTI, PNG, JPEG, TIFF or DICOM"):
        read_image(tmp_path / "notes.txt")


@pytest.mark.parametrize(("shape", "name"), [((3, 5, 6, 4), "m.nii.gz"), ((3, 5, 6), "m.tif")])
def test_masks_that_overlap_come_back_as_they_were_written(tmp_path, shape, name):
    masks = np.random.default_rng(0).integers(0, 2, shape)
    affine = np.diag([*range(2, len(shape) + 1), 1.0]) if len(shape) == 4 else np.eye(3)
    write_masks(tmp_path / name, masks, affine=affine)
    found = read_label(tmp_path / name, several=True)
    np.testing.assert_array_equal(found.array, masks)
    np.testing.assert_allclose(found.affine, affine)
    with pytest.raises(DataError, match=r"data.overlapping|3 pages"):
        read_label(tmp_path / name)


@pytest.mark.parametrize(("dims", "name"), [(3, "m.png"), (2, "m.png"), (2, "m.nii")])
def test_masks_that_overlap_need_a_format_that_holds_them(tmp_path, dims, name):
    with pytest.raises(DataError, match=r"masks that may overlap .* \.(nii|tif)"):
        write_masks(tmp_path / name, np.zeros((2, *[4] * dims)), affine=np.eye(dims + 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32, np.float64])
def test_reading_takes_the_voxels_and_a_label_map_its_integers_besides(tmp_path, dtype):
    voxels = np.zeros((128, 128, 128), dtype)
    voxels[:64] = 1
    nifti.write(tmp_path / "m.nii.gz", voxels, affine=AFFINE)
    little = 4 * 2**20
    for read, bound in (
        (read_image, voxels.nbytes + little),
        (read_label, voxels.nbytes + voxels.size + 2 * little),
    ):
        tracemalloc.start()
        found = read(tmp_path / "m.nii.gz")
        assert tracemalloc.get_traced_memory()[1] < bound
        tracemalloc.stop()
        np.testing.assert_array_equal(found.array[0], voxels)


@pytest.mark.parametrize("name", ["mask.png", "mask.tif"])
def test_a_mask_of_one_bit_is_a_label(tmp_path, name):
    Image.fromarray(np.eye(5, dtype=bool)).save(tmp_path / name)
    label = read_label(tmp_path / name)
    np.testing.assert_array_equal(label.array[0], np.eye(5))
    assert label.array.dtype.kind in "iu"
