import pytest

from medkd.data.dicom.files import files_in, is_dicom, linked

PREAMBLE = b"\0" * 128 + b"DICM"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("any.txt", PREAMBLE, True),
        ("bare", b"\x08\0\x05\0", True),  # a data set without preamble
        ("bare.txt", b"\x08\0\x05\0", False),
        ("empty.dcm", b"", False),
        ("scan.nii", b"\x5c\x01\0\0" + b"\0" * 344, False),
    ],
)
def test_a_file_is_dicom_by_its_content(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    assert is_dicom(tmp_path / name) is told
    assert is_dicom(tmp_path) is told, "a folder is what it holds"


def test_hidden_files_and_the_directory_of_a_medium_are_no_images(tmp_path):
    for name in ("b", "a", ".hidden", "DICOMDIR"):
        (tmp_path / name).write_bytes(PREAMBLE)
    (tmp_path / "folder").mkdir()
    assert [path.name for path in files_in(tmp_path)] == ["a", "b"]


def test_linked_files_lie_alone_and_only_meanwhile(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    with linked([tmp_path / "b"]) as folder:
        assert [path.read_text() for path in folder.iterdir()] == ["b"]
    assert not folder.exists()
    assert (tmp_path / "b").exists()
