import numpy as np
import pytest
from pydicom import dcmread
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import RLELossless

from medkd.data.dicom.header import read_dataset
from medkd.data.dicom.segmentation import masks, names_of
from medkd.data.dicom.volume import read, read_grid
from medkd.errors import DataError
from tests.conftest import segments

GIB = 2**30


@pytest.fixture
def written(tmp_path, series):
    """Return a writer of label maps ``[slices, rows, columns]``, by highdicom."""

    def write(label, *, kind="BINARY", keep_empty=True):
        sources = [dcmread(path) for path in series.folder.iterdir()]
        sources.sort(key=lambda source: source.InstanceNumber)
        seg = segments(
            label[::-1],  # sources go up, a volume counts down
            sources,
            ("liver", "spleen"),
            kind=kind,
            omit_empty_frames=not keep_empty,
        )
        seg.save_as(tmp_path / "seg.dcm")
        return tmp_path / "seg.dcm"

    return write


@pytest.fixture
def label(kit):
    return np.random.default_rng(3).integers(0, 3, kit.voxels.shape).astype(np.uint8)


def together(path, grid):
    found = np.zeros(grid.shape, int)
    for number, mask in masks(
        path, read_dataset(path, memory_bytes=GIB), grid, {1, 2}, memory_bytes=GIB
    ):
        found[mask] = number
    return found


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
@pytest.mark.parametrize("keep_empty", [True, False])
def test_what_highdicom_has_written_is_read(written, series, label, kind, keep_empty):
    label[1:3] = 0
    path = written(label, kind=kind, keep_empty=keep_empty)
    grid = read_grid(series.folder)
    np.testing.assert_array_equal(together(path, grid), label)
    assert {1: "liver", 2: "spleen"}.items() <= names_of(
        read_dataset(path, memory_bytes=GIB)
    ).items()


def test_a_pixel_goes_where_it_lies_whatever_the_order_of_the_grid(written, series, label):
    from medkd.types import without_values

    path, grid = written(label), read_grid(series.folder)
    flipped = grid.affine @ np.array(
        [[0, 0, -1, 4], [0, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]], float
    )
    turned = without_values((7, 6, 5), flipped)
    expected = label.transpose(2, 1, 0)[:, :, ::-1]
    np.testing.assert_array_equal(together(path, turned), expected)


def test_a_grid_that_is_not_its_own_is_refused(written, series, label):
    from medkd.types import without_values

    path, grid = written(label), read_grid(series.folder)
    for shift in (0.4, 40):
        moved = grid.affine.copy()
        moved[:3, 3] += shift * grid.affine[:3, 1]
        with pytest.raises(DataError, match=r"seg\.dcm: (a frame does not lie|reaches beyond)"):
            together(path, without_values(grid.shape, moved))
    coarse = grid.affine @ np.diag([1, 2, 2, 1.0])
    with pytest.raises(DataError, match=r"seg\.dcm: a frame does not lie"):
        together(path, without_values(grid.shape, coarse))


def test_a_file_with_fewer_frames_than_it_says_is_no_label(written, series, label):
    path = written(label, kind="LABELMAP")
    dataset = dcmread(path)
    dataset.compress(RLELossless, generate_instance_uid=False)
    frames = list(generate_frames(dataset.PixelData, number_of_frames=len(label)))
    dataset.PixelData = encapsulate(frames[:3])
    dataset.save_as(path)
    with pytest.raises(DataError, match=r"seg\.dcm: truncated, says it has 5 frames and holds 3"):
        together(path, read_grid(series.folder))


def test_shares_are_refused(written, series, label):
    fractional = dcmread(written(label))
    fractional.SegmentationType = "FRACTIONAL"
    path = series.folder.parent / "f.dcm"
    fractional.save_as(path)
    with pytest.raises(DataError, match=r"f\.dcm: a segmentation of type FRACTIONAL"):
        together(path, read_grid(series.folder))


def test_a_segmentation_is_no_image(written, label):
    with pytest.raises(DataError, match=r"seg\.dcm: no image but SEG"):
        read(written(label))
