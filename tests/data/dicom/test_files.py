import errno
import os
from pathlib import Path

import pytest

from medkd.data.dicom.files import dicom_of, files_in, is_dicom, linked
from medkd.errors import DataError

PREAMBLE = b"\0" * 128 + b"DICM"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("any.txt", PREAMBLE, True),
        ("bare", b"\x08\0\x05\0", True),  # a data set without preamble
        ("bare.IMA", b"\x08\0\x05\0", True),
        ("bare.txt", b"\x08\0\x05\0", False),
        ("empty", b"", False),
        ("scan.nii", b"\x5c\x01\0\0" + b"\0" * 344, False),
    ],
)
def test_a_file_is_dicom_by_its_content(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    assert is_dicom(tmp_path / name) is told
    assert is_dicom(tmp_path) is told, "a folder is what it holds"


@pytest.mark.parametrize("name", ["a.dcm", "a.DCM", "a.dicom", "a.ima"])
def test_what_is_called_dicom_and_is_none_is_unreadable(tmp_path, name):
    path = tmp_path / name
    for content, why in ((b"", "empty"), (b"garbage", "not DICOM, as its name says")):
        path.write_bytes(content)
        assert dicom_of([path]) == ([], {path: why})
    assert not is_dicom(path)
    assert is_dicom(tmp_path), "readers of the folder say what is wrong with it"


def test_what_cannot_be_opened_is_told_and_not_left_out(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(PREAMBLE)
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    opened = Path.open

    def refused(self, *args, **options):
        if self.name == "b":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return opened(self, *args, **options)

    monkeypatch.setattr(Path, "open", refused)
    found, unreadable = dicom_of(files_in(tmp_path))
    assert [path.name for path in found] == ["a"]
    assert {path.name: why for path, why in unreadable.items()} == {
        "b": "cannot be read (Permission denied)",
        "gone": "cannot be read (No such file or directory)",
        "loop": "cannot be read (Too many levels of symbolic links)",
    }
    with pytest.raises(DataError, match=r"b: cannot be read \(Permission denied\); see to its"):
        is_dicom(tmp_path / "b")


def test_hidden_files_and_the_directory_of_a_medium_are_no_images(tmp_path):
    for name in ("b", "a", ".hidden", "DICOMDIR"):
        (tmp_path / name).write_bytes(PREAMBLE)
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")  # opening it would wait for ever
    assert [path.name for path in files_in(tmp_path)] == ["a", "b"]


def test_linked_files_lie_alone_and_only_meanwhile(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    with linked([tmp_path / "b"]) as folder:
        assert [path.read_text() for path in folder.iterdir()] == ["b"]
    assert not folder.exists()
    assert (tmp_path / "b").exists()
