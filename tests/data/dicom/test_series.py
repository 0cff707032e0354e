import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import BasicTextSRStorage, RawDataStorage

from medkd.data.dicom.series import choose, series_in
from medkd.data.dicom.volume import read
from medkd.errors import DataError
from medkd.options import ReadingOptions, SeriesOptions

GIB = 2**30
SERIES = {  # uid: modality, description, slices
    "1.1": ("CT", "Scout", 1),
    "1.2": ("CT", "Thorax 1.0 B31f", 4),
    "1.3": ("CT", "Thorax 5.0 B70f", 3),
    "1.4": ("PT", "WB uptake", 3),
}


@pytest.fixture
def folder(tmp_path, kit):
    """A folder of four series, their files in one another's midst."""
    for uid, (modality, description, count) in SERIES.items():
        for number in range(count):
            changes = {"SeriesInstanceUID": uid, "Modality": modality}
            dataset = kit.slice_of(number, SeriesDescription=description, **changes)
            kit.save(tmp_path / "study" / f"{number}-{uid[-1]}", dataset)
    return tmp_path / "study"


def test_series_are_told_apart(folder):
    found = series_in(folder, memory_bytes=GIB)
    told = {s.uid: (s.modality, s.description, len(s.files)) for s in found}
    assert told == SERIES


def test_several_series_are_listed_and_none_is_taken(folder):
    with pytest.raises(DataError) as caught:
        read(folder)
    message = str(caught.value)
    for uid, (modality, description, count) in SERIES.items():
        assert f"{uid} ({modality}, {count} files)" in message
        assert description not in message  # names and dates are written there
    assert "preprocess.reading.series" in message


@pytest.mark.parametrize(
    ("rule", "uid"),
    [
        ({"uid": "1.3"}, "1.3"),
        ({"modality": "PT"}, "1.4"),
        ({"description": "*b31F*"}, "1.2"),
        ({"modality": "CT", "description": "thorax 5*"}, "1.3"),
        ({"largest": True}, "1.2"),
        ({"description": "thorax*", "largest": True}, "1.2"),
    ],
)
def test_a_rule_chooses(folder, rule, uid):
    rule = SeriesOptions(**rule)
    assert choose(folder, series_in(folder, memory_bytes=GIB), rule).uid == uid
    volume = read(folder, ReadingOptions(series=rule))
    assert volume.shape[0] == SERIES[uid][2]


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"modality": "CT"}, "3 series: 1.1"),
        ({"modality": "PT", "description": "thorax*"}, "none of its 4 series"),
        ({"uid": "9"}, "none of its 4 series"),
    ],
)
def test_a_rule_that_leaves_none_or_several_is_refused(folder, rule, said):
    with pytest.raises(DataError, match=said):
        read(folder, ReadingOptions(series=SeriesOptions(**rule)))


def test_the_largest_of_two_as_large_is_none(tmp_path, kit):
    for uid in ("1.1", "1.2"):
        dataset = kit.slice_of(0, SeriesInstanceUID=uid)
        kit.save(tmp_path / "two" / uid, dataset)
    with pytest.raises(DataError, match="2 series"):
        read(tmp_path / "two", ReadingOptions(series=SeriesOptions(largest=True)))


def test_what_is_drawn_on_images_is_no_series_of_images(folder, kit):
    for modality in ("SEG", "RTSTRUCT", "SR"):
        dataset = kit.picture(np.zeros((4, 4), np.uint8), Modality=modality, SeriesInstanceUID="7")
        if modality == "SR":
            del dataset.Rows
            dataset.SOPClassUID = BasicTextSRStorage
        kit.save(folder / modality, dataset)
    assert {s.uid for s in series_in(folder, memory_bytes=GIB)} == set(SERIES)


def test_a_folder_without_dicom_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(DataError, match="holds no DICOM file"):
        series_in(tmp_path, memory_bytes=GIB)


def cut_before_rows(path):
    """Leave of a file what lies before the size of its picture: pydicom reads that as a whole."""
    dataset = dcmread(path)
    at = path.read_bytes().index(b"\x28\0\x02\0")
    assert "Rows" in dataset
    path.write_bytes(path.read_bytes()[:at])
    assert "Rows" not in dcmread(path)


UNREADABLE = {
    "cut": (cut_before_rows, "ends before its picture"),
    "stub": (lambda path: path.write_bytes(path.read_bytes()[:140]), "not a DICOM file"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "garbage": (lambda path: path.write_bytes(b"garbage"), "not DICOM, as its name says"),
    "link to nothing": (
        lambda path: (path.unlink(), path.symlink_to("gone")),
        r"cannot be read \(No such file or directory\)",
    ),
    "link in a circle": (
        lambda path: (path.unlink(), path.symlink_to(path.name)),
        r"cannot be read \(Too many levels of symbolic links\)",
    ),
}


@pytest.mark.parametrize("damage", UNREADABLE)
@pytest.mark.parametrize("number", [0, 4])
def test_a_series_is_never_read_without_its_unreadable_slices(series, damage, number):
    """Of slices at an end, the others alone are a regular stack."""
    change, why = UNREADABLE[damage]
    path = series.path(number)
    change(path)
    told = (
        rf"series: 1 file of this folder is unreadable: {path.name} \({why}.*\); mend or remove it"
    )
    with pytest.raises(DataError, match=told):
        read(series.folder)
    path.unlink()
    assert read(series.folder).shape[0] == 4


def test_every_unreadable_file_of_a_folder_is_named(series):
    series.path(0).write_bytes(b"")
    series.path(1).write_bytes(b"garbage")
    names = sorted([f"{series.path(0).name} (empty)", f"{series.path(1).name} (not DICOM"])
    with pytest.raises(DataError, match="2 files of this folder are unreadable") as caught:
        read(series.folder)
    assert all(name in str(caught.value) for name in names)


def test_an_object_without_a_picture_that_is_of_no_image_class_hides_nothing(series, kit):
    """Scanners put raw data of the same modality beside their images."""
    raw = kit.slice_of(0, SOPClassUID=RawDataStorage)
    del raw.Rows, raw.PixelData
    kit.save(series.folder / "raw.dcm", raw)
    assert read(series.folder).shape[0] == 5


def test_a_folder_larger_than_memory_is_refused_before_it_is_read(folder):
    with pytest.raises(DataError, match=r"study: takes .*memory_gib"):
        series_in(folder, memory_bytes=2000)


@pytest.mark.parametrize("has_pixels", [True, False])
def test_what_a_damaged_file_has_for_its_modality_is_not_shown(tmp_path, kit, has_pixels):
    """Bytes of a patient's name slip there where a length is damaged."""
    for number, uid in enumerate(("1.2.3", "DOE^JANE\n")):
        damaged = kit.picture(np.zeros((4, 4), np.uint8))
        if not has_pixels:
            del damaged.Rows
            damaged.SOPClassUID = RawDataStorage
        path = kit.save(tmp_path / f"{number}.dcm", damaged)
        content = path.read_bytes().replace(b"CS\x02\x00MR", b"CS\x02\x00\n^")
        old = b"UI\x06\x001.2.4\0"
        assert old in content
        new = uid.encode() + b"\0" * (len(uid) % 2)
        path.write_bytes(content.replace(old, b"UI" + bytes([len(new), 0]) + new))
    with pytest.raises(DataError) as caught:
        choose(tmp_path, series_in(tmp_path, memory_bytes=2**30), None)
    assert "unknown modality" in str(caught.value)
    assert "DOE" not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
