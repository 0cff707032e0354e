import json
import shutil

import pytest

from medkd.data.quality.examine import examine
from medkd.data.start.layouts import recognise
from medkd.errors import DataError
from medkd.types import Case, Task

NAMES = {
    "Decathlon": {"ball": 1, "core_of_it": 2},
    "nnU-Net raw": {"ball": 1, "core": 2},
    "BIDS derivative": {"ball": 1, "core": 2},
    "images and masks": {},
    "class folders": {"large_one": 0, "small": 1},
}


@pytest.mark.parametrize("name", list(NAMES))
def test_a_layout_is_recognised_by_what_lies_there(lay_out, tmp_path, name):
    found = recognise(lay_out(name, tmp_path / "anything"))
    assert found.name == name
    assert found.labels == NAMES[name]
    assert len(found.rows) == (24 if name == "class folders" else 12)
    assert all(row.image.is_file() for row in found.rows)
    is_map = found.task is Task.SEGMENTATION
    assert all(row.label.is_file() if is_map else row.label in {0, 1} for row in found.rows)


def test_channels_of_nnunet_are_modalities_in_files_of_their_own(lay_out, tmp_path):
    folder = lay_out("nnU-Net raw, two channels", tmp_path / "n")
    found = recognise(folder)
    assert found.modalities == ("t1", "t2_flair")
    assert [row.case for row in found.rows] == [f"b_{n:03d}" for n in range(12)]
    names = [(row.image.name, *(path.name for path in row.further)) for row in found.rows]
    assert names[3] == ("b_003_0000.nii.gz", "b_003_0001.nii.gz")
    (folder / "imagesTr/b_003_0001.nii.gz").unlink()
    with pytest.raises(DataError, match=r"b_003_0001\.nii\.gz: no such file, .* names 2 channels"):
        recognise(folder)


def test_modalities_of_a_decathlon_are_the_channels_of_one_file(lay_out, tmp_path):
    found = recognise(lay_out("Decathlon, two modalities", tmp_path / "d"))
    assert found.modalities == ("flair", "t1w")
    assert not any(row.further for row in found.rows)


def test_masks_among_the_images_are_told_by_their_names(lay_out, tmp_path):
    found = recognise(lay_out("flat", tmp_path / "f"))
    assert [(row.image.name, row.label.name) for row in found.rows][:2] == [
        ("d0.png", "d0_seg.png"),
        ("d1.png", "d1_seg.png"),
    ]


def test_folders_of_parts_make_the_split(lay_out, tmp_path):
    found = recognise(lay_out("parted", tmp_path / "p"))
    assert {row.part for row in found.rows} == {"train", "validation", "test"}
    assert len({row.case for row in found.rows}) == len(found.rows) == 24


def test_an_image_without_a_mask_is_unlabelled(lay_out, tmp_path):
    folder = lay_out("images and masks", tmp_path / "u")
    (folder / "masks/c3_mask.png").unlink()
    assert [row.case for row in recognise(folder).rows if row.label is None] == ["c3"]


def test_several_masks_of_one_image_are_refused(lay_out, tmp_path):
    folder = lay_out("flat", tmp_path / "f")
    shutil.copy(folder / "d3_seg.png", folder / "d3_seg_1.png")
    with pytest.raises(
        DataError, match=r"1 images have several masks.* d3_seg\.png, d3_seg_1\.png"
    ):
        recognise(folder)


def test_masks_beside_the_images_of_a_class_are_no_images(lay_out, tmp_path):
    folder = lay_out("masks among the images of classes", tmp_path / "c")
    shutil.copy(folder / "benign/benign (0).png", folder / "benign/plain_label.png")
    names = [row.image.stem for row in recognise(folder).rows]
    assert len(names) == 25
    assert not any("_mask" in name for name in names)
    assert "plain_label" in names  # beside no image, so one itself


@pytest.mark.data
def test_dicom_series_go_with_the_structures_that_refer_to_them(data_root):
    found = recognise(data_root / "dicom/series")
    assert found.name == "DICOM with SEG or RTSTRUCT"
    assert all(row.label is None for row in found.rows[4:])  # series of nobody's outlines
    rows = found.rows[:4]
    names = [row.image.parent.name for row in rows]
    assert names == ["sts_008_ct", "sts_008_mr", "sts_008_pet", "sts_025_mr"]
    assert all(row.label.name == "rtstruct.dcm" for row in rows)
    assert all(row.label.parent.name == name for row, name in zip(rows, names, strict=True))
    assert [row.patient for row in rows] == ["patient_001"] * 3 + ["patient_002"]
    assert "GTV_Mass_CT" in found.labels
    assert not any("STS" in text for row in found.rows for text in (row.case, row.patient))


@pytest.mark.data
def test_series_that_share_a_folder_are_told_apart_by_a_column(data_root, tmp_path):
    for name in ("sts_008_ct", "sts_008_mr"):
        series = data_root / "dicom/series" / name
        for path in [*(series / "dicom").iterdir(), series / "rtstruct.dcm"]:
            shutil.copy(path, tmp_path / f"{name}-{path.name}")
    rows = recognise(tmp_path).rows
    assert {row.image for row in rows} == {tmp_path}
    assert len({row.attributes["series_uid"] for row in rows}) == 2
    labels = {"GTV_Mass_CT": 1, "GTV_Mass_MR_T1": 2}
    seen = [
        examine(Case(row.case, row.image, row.label, "p", row.attributes), labels=labels)
        for row in rows
    ]
    assert sorted(found.shape for found in seen) == [(28, 79, 77), (51, 137, 141)]
    assert all(len(found.voxels) == 2 for found in seen)


REFUSED = {
    "nothing": ({}, "no data set that medkd knows"),
    "regions": (
        {"channel_names": {"0": "T1"}, "labels": {"whole": [1, 2, 3]}, "training": None},
        "has 3 values of its own",
    ),
    "no image": ({"training": [{"label": "a"}]}, "entry 1 of `training` names no image"),
    "a class": (
        {"training": [{"image": "a.nii", "label": 5}]},
        "has the label 5, which is no file",
    ),
    "lists": (
        {"training": [{"image": ["a", "b"]}]},
        "names 2 files under `image`, and `modality` 0",
    ),
    "no first channel": (
        {"channel_names": {"0": "T1"}, "file_ending": ".mha", "training": None},
        r"imagesTr: no file \*_0000\.mha",
    ),
}


@pytest.mark.parametrize("kind", list(REFUSED))
def test_what_cannot_be_used_is_refused_with_the_reason(tmp_path, kind):
    told, message = REFUSED[kind]
    (tmp_path / "imagesTr").mkdir()
    if told:
        (tmp_path / "dataset.json").write_text(json.dumps(told))
    with pytest.raises(DataError, match=message):
        recognise(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        recognise(tmp_path / "nowhere")
