import shutil

import numpy as np
import pytest
from pydicom import Dataset, Sequence

from medkd.data.dicom.reference import read_reference, reference_in
from medkd.data.dicom.volume import LPS_TO_RAS, read_grid
from medkd.errors import DataError, TooLargeError
from medkd.options import ReadingOptions
from medkd.types import without_values

BOXES = {"Left Lung": (0, 0, 3, 3), "left_lung": (3, 0, 6, 3), "Heart": (0, 4, 2, 7)}
LABELS = {"left lung": 5, "HEART": 2}


def outline(grid, top, left, bottom, right):
    corners = [(top, left), (top, right), (bottom, right), (bottom, left)]
    indices = np.array([(1, row - 0.5, column - 0.5) for row, column in corners])
    to_lps = LPS_TO_RAS @ grid.affine
    return indices @ to_lps[:3, :3].T + to_lps[:3, 3]


@pytest.fixture
def grid(series):
    return read_grid(series.folder)


@pytest.fixture
def written(tmp_path, kit, grid):
    """Return a writer of an RTSTRUCT with boxes on slice 1."""

    def write(boxes, frame="1.2.5"):
        dataset = kit.picture(np.zeros((2, 2), np.uint8), Modality="RTSTRUCT")
        del dataset.Rows, dataset.PixelData
        names, drawn = [], []
        for number, (name, corners) in enumerate(boxes, start=1):
            said, roi, contour = Dataset(), Dataset(), Dataset()
            said.ROINumber, said.ROIName, roi.ReferencedROINumber = number, name, number
            contour.ContourGeometricType = "CLOSED_PLANAR"
            contour.ContourData = [f"{v:.3f}" for v in np.ravel(outline(grid, *corners))]
            roi.ContourSequence = Sequence([contour])
            names.append(said)
            drawn.append(roi)
        item = Dataset()
        item.FrameOfReferenceUID = frame
        dataset.StructureSetROISequence = Sequence(names)
        dataset.ROIContourSequence = Sequence(drawn)
        dataset.ReferencedFrameOfReferenceSequence = Sequence([item])
        return kit.save(tmp_path / "rs.dcm", dataset)

    return write


def test_structures_of_a_name_get_its_value_however_it_is_spelt(written, grid):
    path = written(BOXES.items())
    assert reference_in(path) == path
    found = read_reference(path, grid, LABELS)
    expected = np.zeros(grid.shape, int)
    expected[1, :6, :3] = 5
    expected[1, :2, 4:] = 2
    np.testing.assert_array_equal(found.array[0], expected)
    np.testing.assert_array_equal(found.affine, grid.affine)


def test_what_no_label_names_is_left_out(written, grid):
    found = read_reference(written(BOXES.items()), grid, {"heart": 1})
    assert set(np.unique(found.array)) == {0, 1}
    assert (found.array == 1).sum() == 6


def test_a_file_without_any_of_the_structures_is_refused_with_those_it_has(written, grid):
    said = r"rs\.dcm: holds 'Left Lung', 'left_lung', 'Heart', and data\.labels asks for 'liver'"
    with pytest.raises(DataError, match=said):
        read_reference(written(BOXES.items()), grid, {"liver": 1})


@pytest.mark.parametrize("labels", [{"organ": 1, "lesion": 2}, {"lesion": 2, "organ": 1}])
@pytest.mark.parametrize("turned", [False, True])
def test_shared_voxels_are_refused_or_go_to_the_later_in_the_labels(written, grid, labels, turned):
    boxes = [("organ", (0, 0, 4, 4)), ("lesion", (2, 2, 6, 6))]
    path = written(boxes[::-1] if turned else boxes)
    with pytest.raises(DataError, match=r"rs\.dcm: 4 voxels belong to .*overlap: last"):
        read_reference(path, grid, labels)
    found = read_reference(path, grid, labels, ReadingOptions(overlap="last")).array[0, 1]
    assert (found[2:4, 2:4] == list(labels.values())[-1]).all()
    assert ((found == 1).sum(), (found == 2).sum()) in {(16, 12), (12, 16)}


@pytest.mark.parametrize(("overlapping", "voxel_bytes"), [(False, 5), (True, 12)])
def test_a_label_that_would_take_more_memory_than_it_may_is_refused(
    written, grid, overlapping, voxel_bytes
):
    labels = {f"structure {number}": number for number in range(6, 12)} | LABELS
    path, large = written(BOXES.items()), without_values((800, 6, 7), grid.affine)
    fitting, small = (
        ReadingOptions(memory_gib=voxel_bytes * large.array.size / 2**30 - less)
        for less in (0, 1e-8)
    )
    assert read_reference(path, large, labels, fitting, overlapping=overlapping).array.any()
    with pytest.raises(TooLargeError, match=r"rs\.dcm: takes .* \(drawn on 800x6x7 voxels\)"):
        read_reference(path, large, labels, small, overlapping=overlapping)


def test_another_frame_of_reference_is_refused(written, grid):
    with pytest.raises(DataError, match=r"rs\.dcm: lies in another frame of reference"):
        read_reference(written(BOXES.items(), frame="9.9"), grid, LABELS)
    unknown = without_values(grid.shape, grid.affine)  # as of a NIfTI image
    assert read_reference(written(BOXES.items(), frame="9.9"), unknown, LABELS).array.any()


def test_an_image_is_no_reference(series):
    assert reference_in(series.path(0)) is None
    assert reference_in(series.folder) is None


def test_the_one_reference_of_a_folder_is_meant(written, series):
    path = written(BOXES.items())
    assert reference_in(path.rename(series.folder / "rs")) == series.folder / "rs"
    shutil.copy(series.folder / "rs", series.folder / "rs2")
    with pytest.raises(DataError, match=r"series: holds 2 SEG or RTSTRUCT; name the file"):
        reference_in(series.folder)


def test_a_folder_with_an_unreadable_file_holds_no_reference_for_sure(series):
    (series.folder / "rs.dcm").write_bytes(b"")
    with pytest.raises(
        DataError, match=r"series: 1 file .* unreadable: rs\.dcm \(empty\); mend or"
    ):
        reference_in(series.folder)


def test_structures_that_may_overlap_keep_the_voxels_they_share(written, grid):
    boxes = [("Heart", (0, 0, 4, 4)), ("Left Lung", (2, 2, 6, 6))]
    path = written(boxes)
    with pytest.raises(DataError, match=r"data\.overlapping: true to keep both"):
        read_reference(path, grid, LABELS)
    found = read_reference(path, grid, LABELS, overlapping=True).array
    assert found.shape == (2, *grid.shape)
    expected = np.zeros(found.shape, int)
    expected[0, 1, 0:4, 0:4] = 1  # by rising value: the heart's is 2
    expected[1, 1, 2:6, 2:6] = 1
    np.testing.assert_array_equal(found, expected)
