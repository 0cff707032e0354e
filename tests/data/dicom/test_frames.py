from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset

from medkd.data.dicom.frames import count_of, frames_in
from medkd.errors import DataError

FILE = Path("f.dcm")


def groups(**sequences):
    """Return a functional group with one item in each of its sequences."""
    group = Dataset()
    for keyword, values in sequences.items():
        item = Dataset()
        for key, value in values.items():
            setattr(item, key, value)
        setattr(group, keyword, [item])
    return group


@pytest.fixture
def enhanced(kit):
    """A header of three frames, whose orientation and spacing are told once."""
    header = kit.slice_of(0)
    classic = {key: header[key].value for key in ("ImageOrientationPatient", "PixelSpacing")}
    for keyword in (*classic, "ImagePositionPatient"):
        del header[keyword]
    header.NumberOfFrames = 3
    header.SharedFunctionalGroupsSequence = [
        groups(
            PlaneOrientationSequence={
                "ImageOrientationPatient": classic["ImageOrientationPatient"]
            },
            PixelMeasuresSequence={"PixelSpacing": classic["PixelSpacing"]},
        )
    ]
    header.PerFrameFunctionalGroupsSequence = [
        groups(PlanePositionSequence={"ImagePositionPatient": [0, 0, 2.5 * number]})
        for number in range(3)
    ]
    return header


def test_a_classic_file_holds_one_frame_where_its_header_says(kit):
    (frame,) = frames_in(FILE, kit.slice_of(2))
    assert (frame.file, frame.index) == (FILE, 0)
    np.testing.assert_allclose(frame.place.position_mm, kit.slice_of(2).ImagePositionPatient)
    np.testing.assert_allclose(frame.place.axes @ frame.place.axes.T, np.eye(2), atol=1e-9)
    assert frame.place.spacing_mm == (1.3, 0.8)
    assert frame.get("InstanceNumber") == 3
    assert frame.get("EchoTime") is None


def test_what_the_frames_of_a_file_share_holds_for_each_of_them(enhanced):
    found = list(frames_in(FILE, enhanced))
    assert [frame.index for frame in found] == [0, 1, 2]
    assert [frame.place.position_mm[2] for frame in found] == [0, 2.5, 5]
    assert {frame.place.spacing_mm for frame in found} == {(1.3, 0.8)}


def test_what_a_frame_says_of_itself_goes_before_what_all_share(enhanced):
    own = groups(PixelMeasuresSequence={"PixelSpacing": [2, 3]})
    enhanced.PerFrameFunctionalGroupsSequence[1].update(own)
    assert [frame.place.spacing_mm for frame in frames_in(FILE, enhanced)][1] == (2, 3)


def test_a_classic_header_places_no_frame_of_many(kit):
    header = kit.slice_of(0)
    header.NumberOfFrames = 2
    assert [frame.place for frame in frames_in(FILE, header)] == [None, None]


@pytest.mark.parametrize(("said", "count"), [(None, 1), ("", 1), ("0", 1), ("7", 7)])
def test_a_file_says_how_many_frames_it_has(said, count):
    header = Dataset()
    if said is not None:
        header.NumberOfFrames = said
    assert count_of(FILE, header) == count


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"PixelSpacing": None}, "ImagePositionPatient|no PixelSpacing"),
        ({"PixelSpacing": [0, 1]}, r"PixelSpacing is \[0\.0, 1\.0\]"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "two perpendicular directions"),
        ({"ImagePositionPatient": [0, 0]}, "ImagePositionPatient is not 3 numbers"),
        ({"ImagePositionPatient": [0, 0, 1e9]}, "ImagePositionPatient is not 3 numbers"),
    ],
)
def test_a_place_that_cannot_be_is_refused(kit, changes, message):
    header = kit.slice_of(0)
    for key, value in changes.items():
        setattr(header, key, value)
    with pytest.raises(DataError, match=rf"f\.dcm: .*(?:{message})"):
        list(frames_in(FILE, header))


def test_a_file_that_describes_other_frames_than_it_has_is_refused(enhanced):
    enhanced.NumberOfFrames = 4
    with pytest.raises(DataError, match="has 4 frames and describes 3"):
        list(frames_in(FILE, enhanced))
