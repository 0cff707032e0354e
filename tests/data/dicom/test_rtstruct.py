import numpy as np
import pytest
from pydicom import Dataset, Sequence

from medkd.data.dicom.header import read_dataset
from medkd.data.dicom.rtstruct import frame_uids, masks, names_of
from medkd.data.dicom.volume import LPS_TO_RAS, read_grid
from medkd.errors import DataError
from medkd.types import without_values


def structure_set(kit, structures):
    """Return an RTSTRUCT: name to list of (kind, ``[corners, 3]`` LPS millimetres)."""
    dataset = kit.picture(np.zeros((2, 2), np.uint8), Modality="RTSTRUCT")
    del dataset.Rows, dataset.PixelData
    names, drawn = [], []
    for number, (name, outlines) in enumerate(structures.items(), start=1):
        said, roi = Dataset(), Dataset()
        said.ROINumber, said.ROIName = number, name
        roi.ReferencedROINumber = number
        contours = []
        for kind, points in outlines:
            contour = Dataset()
            contour.ContourGeometricType = kind
            contour.NumberOfContourPoints = len(points)
            contour.ContourData = [f"{value:.3f}" for value in np.ravel(points)]
            contours.append(contour)
        roi.ContourSequence = Sequence(contours)
        names.append(said)
        drawn.append(roi)
    dataset.StructureSetROISequence = Sequence(names)
    dataset.ROIContourSequence = Sequence(drawn)
    frame = Dataset()
    frame.FrameOfReferenceUID = "1.2.5"
    dataset.ReferencedFrameOfReferenceSequence = Sequence([frame])
    return dataset


@pytest.fixture
def grid(series):
    return read_grid(series.folder)


@pytest.fixture
def drawn(tmp_path, kit, grid):
    """Return a maker of masks from outlines in indices of slice, row and column."""

    def make(*outlines, kind="CLOSED_PLANAR", on=None):
        to_lps = LPS_TO_RAS @ grid.affine
        world = [
            (kind, points @ to_lps[:3, :3].T + to_lps[:3, 3])
            for points in (np.asarray(points, float) for points in outlines)
        ]
        path = kit.save(tmp_path / "rs.dcm", structure_set(kit, {"liver": world}))
        header = read_dataset(path, memory_bytes=2**30)
        ((number, mask),) = masks(path, header, on or grid, {1})
        assert number == 1
        return mask

    return make


def box(slice_, top, left, bottom, right):
    corners = ((top, left), (top, right), (bottom, right), (bottom, left))
    return [(slice_, row - 0.5, column - 0.5) for row, column in corners]


def test_an_outline_is_the_pixels_within_on_its_slice(drawn, grid):
    expected = np.zeros(grid.shape, bool)
    expected[1, 1:4, 2:6] = True
    expected[3, 0:2, 0:3] = True
    np.testing.assert_array_equal(drawn(box(1, 1, 2, 4, 6), box(3, 0, 0, 2, 3)), expected)


def test_a_hole_is_left_out_however_it_is_drawn(drawn, grid):
    outer, inner = box(2, 0, 0, 6, 7), box(2, 2, 2, 4, 5)
    expected = np.zeros(grid.shape, bool)
    expected[2] = True
    expected[2, 2:4, 2:5] = False
    np.testing.assert_array_equal(drawn(outer, inner), expected)
    np.testing.assert_array_equal(drawn(outer, inner, kind="CLOSEDPLANAR_XOR"), expected)
    keyhole = [*outer, outer[0], *inner[::-1], inner[-1]]
    np.testing.assert_array_equal(drawn(keyhole), expected)


def test_the_axes_of_the_grid_may_lie_in_any_order(drawn, grid):
    """As of a NIfTI image of the same patient."""
    order = np.array([2, 1, 0, 3])
    turned = without_values(grid.shape[::-1], grid.affine[:, order])
    outlines = [box(1, 1, 2, 4, 6), box(3, 0, 0, 2, 3)]
    np.testing.assert_array_equal(drawn(*outlines, on=turned), drawn(*outlines).transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("outline", "kind", "reason"),
    [
        (box(1.5, 1, 2, 4, 6), "CLOSED_PLANAR", "between slices 1 and 2"),
        (box(7, 1, 2, 4, 6), "CLOSED_PLANAR", "outside the image"),
        (box(-2, 1, 2, 4, 6), "CLOSED_PLANAR", "outside the image"),
        ([(0, 0, 0), (1, 3, 1), (2, 2, 5)], "CLOSED_PLANAR", "cross the slices"),
        ([(1, 1, 1)], "POINT", "drawn as POINT, which encloses nothing"),
        ([(1, 1, 1), (1, 2, 2)], "OPEN_PLANAR", "drawn as OPEN_PLANAR"),
    ],
)
def test_what_cannot_be_put_on_slices_is_refused(drawn, outline, kind, reason):
    with pytest.raises(DataError, match=rf"rs\.dcm: .*'liver'.* ?{reason}|rs\.dcm: .*{reason}"):
        drawn(outline, kind=kind)


def test_names_and_frames_are_told(tmp_path, kit):
    path = kit.save(tmp_path / "rs.dcm", structure_set(kit, {"liver": [], "Left lung": []}))
    header = read_dataset(path, memory_bytes=2**30)
    assert names_of(header) == {1: "liver", 2: "Left lung"}
    assert frame_uids(header) == {"1.2.5"}


def test_a_structure_that_was_not_drawn_is_empty(tmp_path, kit, grid):
    path = kit.save(tmp_path / "rs.dcm", structure_set(kit, {"liver": []}))
    ((_, mask),) = masks(path, read_dataset(path, memory_bytes=2**30), grid, {1})
    assert not mask.any()


def test_a_list_of_points_that_is_none_is_refused(tmp_path, kit, grid):
    dataset = structure_set(kit, {"liver": [("CLOSED_PLANAR", np.zeros((3, 3)))]})
    dataset.ROIContourSequence[0].ContourSequence[0].ContourData = ["1", "2", "3", "4"]
    path = kit.save(tmp_path / "rs.dcm", dataset)
    with pytest.raises(DataError, match=r"rs\.dcm: an outline of 'liver' is not a list of points"):
        list(masks(path, read_dataset(path, memory_bytes=2**30), grid, {1}))
