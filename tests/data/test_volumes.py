import json
import multiprocessing

import numpy as np
import pytest

from medkd.data.volumes import VolumeStore

ARRAYS = {"image": np.arange(24, dtype=np.float32).reshape(1, 2, 3, 4), "label": np.array([3])}


@pytest.fixture
def store(tmp_path):
    return VolumeStore(tmp_path / "store")


def test_arrays_come_back_as_they_were_and_mapped(store):
    assert not store.exists
    store.write("k", ARRAYS, said={"shape": [2, 3, 4]})
    assert store.exists
    assert "k" in store
    assert "other" not in store
    kept = store.read("k")
    assert kept.said == {"shape": [2, 3, 4]}
    assert kept.arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert isinstance(kept.arrays[name], np.memmap)
        np.testing.assert_array_equal(kept.arrays[name], array, strict=True)
        with pytest.raises(ValueError, match="read-only"):
            kept.arrays[name][...] = 0


def test_what_was_not_written_whole_is_not_there(store, monkeypatch):
    monkeypatch.setattr(json, "dumps", lambda _: 1 / 0)  # killed before the last file
    with pytest.raises(ZeroDivisionError):
        store.write("k", ARRAYS, said={})
    assert "k" not in store
    monkeypatch.undo()
    store.write("k", ARRAYS, said={})
    assert [path.name for path in store.folder.iterdir()] == ["k"]


def test_processes_may_write_the_same_key_at_once(store):
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(
            target=store.write,
            args=("k", {"image": np.full((64, 64, 64), number)}),
            kwargs={"said": {"is": number}},
        )
        for number in (1, 2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    kept = store.read("k")
    assert (kept.arrays["image"] == kept.said["is"]).all()
    assert [path.name for path in store.folder.iterdir()] == ["k"]


def test_objects_are_not_written(store):
    with pytest.raises(ValueError, match="allow_pickle=False"):
        store.write("k", {"image": np.array([{}])}, said={})
