import io
import zipfile

import numpy as np
import pytest

from medkd.data.npz import read_arrays
from medkd.errors import DataError

ARRAYS = {"a_images": np.arange(24, dtype=np.uint8).reshape(2, 3, 4), "b": np.eye(3)}


@pytest.fixture(params=[np.savez, np.savez_compressed])
def path(request, tmp_path):
    request.param(tmp_path / "some.npz", **ARRAYS)
    return tmp_path / "some.npz"


def everything(name):
    return bool(name)


def test_arrays_are_read_as_they_were_written(path):
    found = read_arrays(path, wanted=everything)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].dtype == array.dtype


def test_what_is_not_wanted_is_not_read(path):
    assert read_arrays(path, wanted=lambda name: name.endswith("images")).keys() == {"a_images"}


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "bomb.npz"
    np.savez_compressed(path, zeros=np.zeros(2**26, np.uint8))
    assert path.stat().st_size < 2**17
    with pytest.raises(DataError, match=r"bomb\.npz: takes 0\.0625 GiB"):
        read_arrays(path, wanted=everything, memory_bytes=2**20)


def forged(path, header, size):
    """Write an npy member whose header promises more than is there."""
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", member.getvalue() + bytes(size))
    return path


@pytest.mark.parametrize("shape", [(10**12,), (-5,), (3, 10**6)])
def test_a_header_that_promises_other_than_is_there_is_refused(tmp_path, shape):
    path = forged(
        tmp_path / "f.npz", {"descr": "<f8", "fortran_order": False, "shape": shape}, size=800
    )
    with pytest.raises(DataError, match=r"f\.npz: .*800|f\.npz: truncated"):
        read_arrays(path, wanted=everything)


def test_objects_are_refused(tmp_path):
    np.savez(tmp_path / "o.npz", x=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match=r"o\.npz: .*Python objects"):
        read_arrays(tmp_path / "o.npz", wanted=everything)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_is_refused(path, share):
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"some\.npz: truncated or not an npz"):
        read_arrays(path, wanted=everything)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"gone\.npz: no such file"):
        read_arrays(tmp_path / "gone.npz", wanted=everything)


@pytest.mark.parametrize("header", ["{'shape': (64, 64", "{'shape': '", "(" * 99, "{\n  1\n 2"])
def test_a_header_that_ends_within_a_bracket_is_one_error(tmp_path, header):
    text = header.encode()
    member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    with zipfile.ZipFile(tmp_path / "open.npz", "w") as archive:
        archive.writestr("train_images.npy", member)
    with pytest.raises(DataError, match=r"open\.npz: truncated or not an npz file") as caught:
        read_arrays(tmp_path / "open.npz", wanted=bool)
    assert len(str(caught.value).splitlines()) == 1
