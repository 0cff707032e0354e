import csv
import os
from pathlib import Path

import numpy as np
import pytest

from medkd.data import reader
from medkd.data.medmnist import unpack
from medkd.errors import DataError

CLASSES = {"normal": 0, "pneumonia": 1}
KEYS = [f"{part}_{kind}" for part in ("train", "val", "test") for kind in ("images", "labels")]


def arrays(space=(9, 7)):
    rng = np.random.default_rng(0)
    made = {}
    for part, count in (("train", 5), ("val", 3), ("test", 2)):
        made[f"{part}_images"] = rng.integers(0, 256, (count, *space), dtype=np.uint8)
        made[f"{part}_labels"] = (np.arange(count) % 2).astype(np.uint8)[:, None]
    return made


def saved(tmp_path, made):
    np.savez_compressed(tmp_path / "toy.npz", **made)
    return tmp_path / "toy.npz"


def rows_of(folder):
    with (folder / "cases.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("space", "suffix"), [((9, 7), ".png"), ((9, 7, 3), ".png"), ((6, 9, 7), ".nii.gz")]
)
def test_every_image_comes_back(tmp_path, space, suffix):
    made = arrays(space)
    unpack(saved(tmp_path, made), tmp_path / "out", classes=CLASSES)
    rows = rows_of(tmp_path / "out")
    images = [reader.read_image(tmp_path / "out" / row["image"]).array for row in rows]
    before = np.concatenate([made[key] for key in KEYS if key.endswith("images")])
    expected = np.moveaxis(before, 3, 1) if space[-1] == 3 else before[:, None]
    np.testing.assert_array_equal(images, expected)
    assert all(row["image"].endswith(suffix) for row in rows)


def test_datalist_keeps_labels_and_split(tmp_path):
    made = arrays()
    unpack(saved(tmp_path, made), tmp_path / "out", classes=CLASSES)
    rows = rows_of(tmp_path / "out")
    assert list(rows[0]) == ["case", "image", "label", "patient", "split"]
    assert [row["split"] for row in rows] == ["train"] * 5 + ["validation"] * 3 + ["test"] * 2
    labels = np.concatenate([made[key] for key in KEYS if key.endswith("labels")]).ravel()
    assert [int(row["label"]) for row in rows] == labels.tolist()
    assert rows[5]["case"] == "validation_00000"


def test_identical_images_share_a_patient_and_others_do_not(tmp_path):
    made = arrays()
    made["test_images"][1] = made["train_images"][2]
    unpack(saved(tmp_path, made), tmp_path / "out", classes=CLASSES)
    patients = {row["case"]: row["patient"] for row in rows_of(tmp_path / "out")}
    assert patients["test_00001"] == patients["train_00002"]
    assert len(set(patients.values())) == len(patients) - 1


def test_unpacking_twice_gives_the_same_datalist(tmp_path):
    source = saved(tmp_path, arrays())
    for _ in range(2):
        unpack(source, tmp_path / "out", classes=CLASSES)
        table = (tmp_path / "out" / "cases.csv").read_bytes()
    assert table == (tmp_path / "out" / "cases.csv").read_bytes()
    assert len(list((tmp_path / "out" / "images").iterdir())) == 10


@pytest.mark.parametrize("key", KEYS)
def test_missing_keys_are_named(tmp_path, key):
    made = arrays()
    del made[key]
    with pytest.raises(DataError, match=rf"toy\.npz: no key {key}"):
        unpack(saved(tmp_path, made), tmp_path / "out", classes=CLASSES)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("val_labels", np.zeros((2, 1), np.uint8), "val_images holds 3 images, val_labels 2"),
        ("val_labels", np.full((3, 1), 7, np.uint8), r"val_labels holds \[7\]"),
        ("val_labels", np.zeros((3, 14), np.uint8), r"val_labels has shape \(3, 14\)"),
        ("val_images", np.zeros((3, 9, 7), np.float32), "val_images is float32"),
        ("val_images", np.zeros((3, 9), np.uint8), r"val_images has shape \(3, 9\)"),
        ("val_labels", np.array([[None]] * 3), "not an npz file .*Python objects"),
    ],
)
def test_content_that_does_not_fit_is_refused(tmp_path, key, value, message):
    with pytest.raises(DataError, match=message):
        unpack(saved(tmp_path, {**arrays(), key: value}), tmp_path / "out", classes=CLASSES)
    assert not (tmp_path / "out").exists()


def test_all_problems_come_in_one_pass(tmp_path):
    made = {**arrays(), "test_labels": np.full((2, 1), 9)}
    del made["train_images"]
    with pytest.raises(DataError, match=r"2 problems(?s:.)*train_images(?s:.)*test_labels"):
        unpack(saved(tmp_path, made), tmp_path / "out", classes=CLASSES)


def test_files_that_are_no_npz_are_refused(tmp_path):
    whole = saved(tmp_path, arrays()).read_bytes()
    damaged = bytearray(whole)
    damaged[200:300] = bytes(100)
    for content in (b"", b"not a zip", whole[: len(whole) // 2], bytes(damaged)):
        path = tmp_path / "bad.npz"
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"bad\.npz: truncated or not"):
            unpack(path, tmp_path / "out", classes=CLASSES)
    with pytest.raises(DataError, match=r"none\.npz: no such file"):
        unpack(tmp_path / "none.npz", tmp_path / "out", classes=CLASSES)


@pytest.mark.data
@pytest.mark.skipif("MEDKD_DATA" not in os.environ, reason="MEDKD_DATA is not set")
def test_pneumonia_keeps_duplicates_together(tmp_path):
    source = Path(os.environ["MEDKD_DATA"]) / "pneumoniamnist" / "pneumoniamnist.npz"
    unpack(source, tmp_path, classes=CLASSES)
    rows = rows_of(tmp_path)
    assert len(rows) == 4698
    split_of = {(row["patient"], row["split"]) for row in rows}
    assert len(split_of) == len({patient for patient, _ in split_of}) < 4698


def found(labels):
    """Return arrays of five, three and two images whose findings are told in columns."""
    counts = {"train": 5, "val": 3, "test": 2}
    return arrays() | {f"{part}_labels": labels[:n].copy() for part, n in counts.items()}


COLUMNS = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [0, 0]], np.uint8)


def test_images_of_several_findings_name_them_by_the_columns(tmp_path):
    unpack(
        saved(tmp_path, found(COLUMNS)),
        tmp_path / "out",
        classes={"nodule": 2, "effusion": 1},
        several=True,
    )
    labels = [row["label"] for row in rows_of(tmp_path / "out")]
    assert labels[:5] == ["none", "effusion", "nodule", "effusion|nodule", "none"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("val_labels", np.zeros((3, 3), np.uint8), r"\(3, 3\); .*data.labels names 2 findings"),
        ("val_labels", np.full((3, 2), 3), r"holds \[3\]; a finding is there, 1, or not, 0"),
    ],
)
def test_columns_that_are_no_findings_are_refused(tmp_path, key, value, message):
    path = saved(tmp_path, found(COLUMNS) | {key: value})
    with pytest.raises(DataError, match=message):
        unpack(path, tmp_path / "out", classes={"a": 1, "b": 2}, several=True)


def test_several_columns_need_to_be_declared_as_findings(tmp_path):
    with pytest.raises(DataError, match=r"set data\.overlapping: true"):
        unpack(saved(tmp_path, found(COLUMNS)), tmp_path / "out", classes=CLASSES)
