from pathlib import Path

import numpy as np
import pytest

from medkd.data import images, nifti
from medkd.data.modalities import modality_of, read_modalities
from medkd.data.preprocess import preprocess
from medkd.data.reader import read_image
from medkd.errors import DataError
from medkd.options import PreprocessOptions, ReadingOptions
from tests.data.test_reading import slice_of

AFFINE = np.diag([1.0, 2.0, 3.0, 1.0])
NAMES = ("t1", "flair")


@pytest.fixture
def pair(tmp_path):
    """Return a writer of a second modality beside a first of 4x5x6 voxels."""
    rng = np.random.default_rng(0)

    def write(shape=(4, 5, 6), affine=AFFINE):
        paths = [tmp_path / "p_t1.nii.gz", tmp_path / "p_flair.nii.gz"]
        nifti.write(paths[0], rng.normal(100, 20, (4, 5, 6)).astype(np.float32), affine=AFFINE)
        nifti.write(paths[1], rng.normal(5, 1, shape).astype(np.float32), affine=affine)
        return paths

    return write


def test_files_of_a_case_are_the_channels_of_the_4d_file_of_the_same_voxels(pair, tmp_path):
    paths = pair()
    stacked = np.stack([read_image(path).array[0] for path in paths], axis=-1)
    nifti.write(tmp_path / "all.nii.gz", stacked, affine=AFFINE)
    one, other = read_modalities(paths, case="p"), read_image(tmp_path / "all.nii.gz")
    np.testing.assert_array_equal(one.array, other.array)
    np.testing.assert_array_equal(one.affine, other.affine)
    assert one.remedies == other.remedies


def test_the_order_of_the_files_is_that_of_the_channels(pair):
    paths = pair()
    forth, back = (read_modalities(order, case="p").array for order in (paths, paths[::-1]))
    np.testing.assert_array_equal(forth, back[::-1])


MOVED, TURNED, COARSE = AFFINE.copy(), AFFINE.copy(), AFFINE.copy()
MOVED[0, 3] = 2.5
TURNED[0] *= -1
COARSE[1, 1] = 2.1
APART = {
    "voxels": ({"shape": (4, 5, 7)}, "4x5x7 voxels, not 4x5x6"),
    "spacing": ({"affine": COARSE}, "spacing 1x2.1x3 mm, not 1x2x3"),
    "orientation": ({"affine": TURNED}, "axes LAS, not RAS"),
    "position": ({"affine": MOVED}, r"2\.5 mm apart"),
}


@pytest.mark.parametrize("kind", list(APART))
def test_another_grid_is_refused_with_both_files_and_what_differs(pair, kind):
    changed, difference = APART[kind]
    paths = pair(**changed)
    message = (
        rf"{paths[1]}: case p7: not on the grid of {paths[0]}: {difference}; register and resample"
    )
    with pytest.raises(DataError, match=message):
        read_modalities(paths, case="p7")


def test_what_rounding_leaves_between_two_grids_is_no_difference(pair):
    assert len(read_modalities(pair(affine=AFFINE + 1e-6), case="p").array) == 2


def test_a_modality_whose_axes_run_otherwise_is_turned(pair):
    paths = pair(shape=(6, 4, 5), affine=AFFINE[:, [2, 0, 1, 3]])
    second = read_image(paths[1]).array[0]
    found = read_modalities(paths, case="p")
    np.testing.assert_array_equal(found.array[1], second.transpose(1, 2, 0))
    np.testing.assert_array_equal(found.affine, AFFINE)


def test_frames_of_reference_that_differ_are_refused(tmp_path):
    paths = [tmp_path / "t1", tmp_path / "flair"]
    for number, path in enumerate(paths):
        path.mkdir()
        for level in range(2):
            dataset = slice_of(f"1.{number}", level, 10 + number)
            dataset.FrameOfReferenceUID = f"1.2.{number}"
            dataset.save_as(path / f"{level}.dcm", enforce_file_format=True)
    assert len(read_modalities([paths[0], paths[0]], case="p").array) == 2
    with pytest.raises(DataError, match=r"flair: case p: .*another DICOM frame of reference"):
        read_modalities(paths, case="p")


def test_a_file_of_several_channels_among_several_is_refused(pair):
    paths = pair(shape=(4, 5, 6, 2))
    with pytest.raises(DataError, match=r"p_flair\.nii\.gz: case p: 2 channels, where a case"):
        read_modalities(paths, case="p")


def test_the_limit_of_memory_is_that_of_all_files_together(pair):
    paths = pair()
    alone = 4 * 5 * 6 * 8 * 4 / 2**30
    options = ReadingOptions(memory_gib=alone)
    read_image(paths[0], options)
    with pytest.raises(DataError, match=r"p_t1\.nii\.gz"):
        read_modalities(paths * 40, options, case="p")


def test_each_modality_of_a_picture_is_scaled_by_itself(tmp_path):
    rng = np.random.default_rng(0)
    paths = [tmp_path / "p_t1.png", tmp_path / "p_flair.png"]
    for path, (middle, spread) in zip(paths, ((200, 9), (20, 3)), strict=True):
        images.write(path, np.clip(rng.normal(middle, spread, (16, 16)), 0, 255).astype(np.uint8))
    options = PreprocessOptions(window=(16, 16), orientation=None, channels=2, modalities=NAMES)
    array, _ = preprocess(read_modalities(paths, case="p"), options)
    np.testing.assert_allclose(array.mean(axis=(1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(array.std(axis=(1, 2)), 1, rtol=1e-5)


def test_one_modality_never_stands_for_another(pair):
    options = PreprocessOptions(window=(4, 4, 4), channels=2, modalities=NAMES)
    with pytest.raises(DataError, match="has 1 channels, the network needs t1, flair"):
        preprocess(read_image(pair()[0]), options)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a_t1.nii.gz", ("a", 0)),
        ("A_FLAIR.nii", ("A", 1)),
        ("a_b_0001.png", ("a_b", 1)),
        ("a_ce_t1.nii.gz", ("a", 2)),
        ("a_0003.nii.gz", None),
        ("at1.nii.gz", None),
        ("_t1.nii.gz", None),
    ],
)
def test_a_file_tells_its_case_and_modality_by_its_name(name, expected):
    assert modality_of(Path(name), [*NAMES, "ce_t1"]) == expected
