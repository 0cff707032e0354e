import numpy as np
import pytest

from medkd.config import load
from medkd.data.check import check
from medkd.data.reader import read_image
from medkd.data.start.init import init
from medkd.data.start.layout import Layout
from medkd.data.start.medmnist_file import unpacked
from medkd.errors import DataError
from medkd.study import Study
from medkd.train.check_models import check_models
from medkd.types import Task


def layout(path):
    return Layout("MedMNIST", Task.CLASSIFICATION, source=path)


def test_every_image_of_the_file_is_a_case_of_the_part_it_lies_in(tmp_path):
    rng, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 8, 9), np.uint8)
        arrays[f"{part}_labels"] = np.arange(count).reshape(-1, 1) % 2 * 5
    np.savez(tmp_path / "bones.npz", **arrays)
    found = unpacked(layout(tmp_path / "bones.npz"), tmp_path)
    assert found.labels == {"class_0": 0, "class_5": 5}
    assert found.title == "bones"
    assert [row.part for row in found.rows] == ["train"] * 4 + ["validation"] * 2 + ["test"] * 3
    assert [row.label for row in found.rows] == [0, 5, 0, 5, 0, 5, 0, 5, 0]
    images = np.concatenate([arrays[f"{part}_images"] for part in ("train", "val", "test")])
    for row, image in zip(found.rows, images, strict=True):
        np.testing.assert_array_equal(read_image(row.image).array[0], image)


def saved(path, **arrays):
    np.savez_compressed(path, **arrays)
    return path.read_bytes()


@pytest.mark.parametrize("damage", ["empty", "no archive", "truncated", "corrupt"])
def test_a_damaged_file_is_refused(tmp_path, damage):
    path = tmp_path / "bad.npz"
    content = saved(path, train_labels=np.arange(4000) % 7, train_images=np.zeros((9, 8, 8)))
    path.write_bytes(
        {
            "empty": b"",
            "no archive": b"no archive",
            "truncated": content[: len(content) // 2],
            "corrupt": content[:200] + bytes(200) + content[400:],
        }[damage]
    )
    with pytest.raises(DataError, match=r"bad\.npz: truncated or not an npz file"):
        init(path, tmp_path / "study")


@pytest.mark.parametrize("labels", [{}, {"train_labels": np.array(["a", "b"])}])
def test_a_file_without_numbers_of_classes_is_refused(tmp_path, labels):
    saved(tmp_path / "other.npz", train_images=np.zeros((2, 8, 8)), **labels)
    with pytest.raises(DataError, match=r"other\.npz: no key train_labels of whole numbers"):
        unpacked(layout(tmp_path / "other.npz"), tmp_path)


def test_several_columns_are_findings_that_a_study_can_be_made_of(tmp_path):
    rng, arrays = np.random.default_rng(0), {}
    for part, count in (("train", 12), ("val", 4), ("test", 4)):
        arrays[f"{part}_images"] = rng.integers(0, 256, (count, 16, 16), np.uint8)
        numbers = np.arange(count)
        arrays[f"{part}_labels"] = np.stack([numbers % 2, numbers // 2 % 2], axis=1)
    np.savez(tmp_path / "chest.npz", **arrays)
    found = unpacked(layout(tmp_path / "chest.npz"), tmp_path / "files")
    assert (found.labels, found.overlapping) == ({"finding_1": 1, "finding_2": 2}, True)
    assert [row.label for row in found.rows[:4]] == [
        (), ("finding_1",), ("finding_2",), ("finding_1", "finding_2")]  # fmt: skip
    made = init(tmp_path / "chest.npz", tmp_path / "study")
    config = load(made.config)
    assert config.has_findings
    assert made.data.shares == {"finding_1": 0.5, "finding_2": 0.5}
    check_models(config)
    cohort = check(Study(config, config_path=made.config))
    assert len(cohort.split.train) == 12
