import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import highdicom  # noqa: TID253
import nibabel
import numpy as np
import pytest
from pydicom import dcmread

from medkd.data import images, nifti
from medkd.data.preprocess import preprocess
from medkd.data.reader import read_image, read_label, write_mask
from medkd.device import load
from medkd.device.answer import How, answer, answer_file, write_probabilities
from medkd.device.guard import describe, fit_guard
from medkd.device.manifest import MANIFEST
from medkd.device.predictor import Predictor
from medkd.device.record import record
from medkd.errors import DataError, MissingExtraError, ReleaseError
from medkd.types import Volume

AFFINE = np.array([[0, -1.5, 0, 5], [2, 0, 0, 6], [0, 0, 3, 7], [0, 0, 0, 1.0]])


@pytest.fixture
def folder(tmp_path, scan):
    """Three scans, one of them damaged, and a file that is no image."""
    source = tmp_path / "scans"
    source.mkdir()
    for number, name in enumerate(["a.nii.gz", "b.v2.nii", "damaged.nii.gz"]):
        nifti.write(source / name, scan((14, 12, 9), seed=number), affine=AFFINE)
    content = (source / "damaged.nii.gz").read_bytes()
    (source / "damaged.nii.gz").write_bytes(content[:500])
    (source / "notes.txt").write_text("not an image")
    return source


@pytest.fixture
def pictures(tmp_path):
    source = tmp_path / "pictures"
    for name, value in (("dark", 20), ("bright", 230)):
        images.write(source / f"{name}.png", np.full((10, 14), value, np.uint8))
    return source


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_gives_masks_and_one_bad_file_stops_nothing(release_3d, folder, tmp_path):
    summary = answer(release_3d, folder, tmp_path / "masks")
    assert {name: path.name for name, path in summary.written.items()} == {
        "a.nii.gz": "a.nii.gz",
        "b.v2.nii": "b.v2.nii.gz",
    }
    assert list(summary.failed) == ["damaged.nii.gz"]
    assert summary.failed["damaged.nii.gz"].startswith("truncated or not a NIfTI file")
    assert sorted(p.name for p in (tmp_path / "masks").iterdir()) == [
        *("a.json", "a.nii.gz", "b.v2.json", "b.v2.nii.gz", "summary.json")
    ]
    told = json.loads((tmp_path / "masks" / "summary.json").read_text())
    assert told["answered"] == {"a.nii.gz": "a.nii.gz", "b.v2.nii": "b.v2.nii.gz"}
    assert told["failed"] == summary.failed


@pytest.mark.parametrize("release", ["release_3d", "release_classes"])
def test_who_interrupts_finds_what_was_answered_by_then(request, release, tmp_path, monkeypatch):
    source = tmp_path / "in"
    source.mkdir()
    dims = 3 if release == "release_3d" else 2
    for name in "abcde":
        image = np.random.default_rng(0).integers(0, 255, [12] * dims).astype(np.uint8)
        write_mask(source / f"{name}{'.nii.gz' if dims == 3 else '.png'}", image, affine=np.eye(4))
    names = sorted(path.name for path in source.iterdir())
    (source / names[2]).write_bytes(b"damaged")
    ask, asked = Predictor.answer, []

    def interrupted(self, *args, **options):
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return ask(self, *args, **options)

    monkeypatch.setattr(Predictor, "answer", interrupted)
    with pytest.raises(KeyboardInterrupt):
        answer(request.getfixturevalue(release), source, tmp_path / "out")
    told = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert list(told["answered"]) == names[:2]
    assert list(told["failed"]) == names[2:3]
    assert told["not_reached"] == names[3:]
    if dims == 2:
        said = [row["image"] for row in table(tmp_path / "out" / "probabilities.csv")]
    else:
        said = sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz"))
    assert said == names[:2]
    monkeypatch.undo()
    answer(request.getfixturevalue(release), source, tmp_path / "out")  # may be asked again
    assert not json.loads((tmp_path / "out" / "summary.json").read_text())["not_reached"]


def test_what_is_no_former_answer_is_not_replaced(release_3d, release_classes, folder, tmp_path):
    scan = (folder / "b.v2.nii").read_bytes()
    summary = answer(release_3d, folder / "a.nii.gz", folder / "b.v2.nii")  # OUTPUT was forgotten
    assert "exists, and nothing says that it is a former answer" in summary.failed["a.nii.gz"]
    assert (folder / "b.v2.nii").read_bytes() == scan
    for name in ("cases.csv", "cases.json"):
        (tmp_path / name).write_text("case,label\n")
        with pytest.raises(DataError, match="exists, and nothing says"):
            answer(release_classes, folder, tmp_path / name)
        assert (tmp_path / name).read_text() == "case,label\n"
    maps = tmp_path / "mask.probabilities.nii.gz"
    maps.write_bytes(scan)
    how = How(probabilities=True)
    assert answer(release_3d, folder / "a.nii.gz", tmp_path / "mask.nii.gz", how=how).failed
    assert maps.read_bytes() == scan


def test_an_output_below_a_file_is_refused_at_once(release_3d, release_classes, folder, tmp_path):
    (tmp_path / "file").touch()
    for release in (release_3d, release_classes):
        with pytest.raises(DataError, match=r"cannot be written .* choose another output"):
            answer(release, folder, tmp_path / "file" / "out")


def test_an_image_named_like_the_summary_fails_alone(release_3d, folder, tmp_path):
    (folder / "a.nii.gz").rename(folder / "summary.nii.gz")
    summary = answer(release_3d, folder, tmp_path / "out")
    assert "would overwrite" in summary.failed["summary.nii.gz"]
    assert "failed" in json.loads((tmp_path / "out" / "summary.json").read_text())


def test_a_mask_file_has_the_images_own_grid(release_3d, folder, tmp_path):
    answer(release_3d, folder / "a.nii.gz", tmp_path / "new" / "mask.nii.gz")
    image, mask = (nibabel.load(p) for p in (folder / "a.nii.gz", tmp_path / "new" / "mask.nii.gz"))
    assert mask.shape == image.shape
    assert mask.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(mask.affine, image.affine)
    assert nibabel.aff2axcodes(mask.affine) == nibabel.aff2axcodes(image.affine)
    expected = load(release_3d).answer(nifti.read(folder / "a.nii.gz")).mask
    np.testing.assert_array_equal(np.asarray(mask.dataobj), expected)


def test_an_existing_folder_takes_the_mask_of_one_file(release_3d, folder, tmp_path):
    summary = answer(release_3d, folder / "a.nii.gz", tmp_path)
    assert summary.written == {"a.nii.gz": tmp_path / "a.nii.gz"}


def test_a_folder_of_masks_inside_the_folder_of_images_is_no_image(release_3d, folder):
    for _ in range(2):
        summary = answer(release_3d, folder, folder / "masks")
        assert "masks" not in summary.failed


def test_a_picture_gets_a_png(release_2d, scan, tmp_path):
    picture = np.clip(scan((20, 31)), 0, 255).astype(np.uint8)
    images.write(tmp_path / "p.png", picture)
    answer(release_2d, tmp_path / "p.png", tmp_path / "masks")
    expected = load(release_2d).answer(images.read(tmp_path / "p.png")).mask
    assert expected.any()
    mask = images.read_label(tmp_path / "masks" / "p.png").array[0]
    np.testing.assert_array_equal(mask, expected)


def test_a_mask_never_overwrites_an_image(release_3d, folder):
    before = (folder / "a.nii.gz").read_bytes()
    for target in (folder, folder / "a.nii.gz"):
        summary = answer(release_3d, folder / "a.nii.gz", target)
        assert "would overwrite" in summary.failed["a.nii.gz"]
    assert "a.nii.gz" in answer(release_3d, folder, folder).failed
    assert (folder / "a.nii.gz").read_bytes() == before


def test_a_mask_never_overwrites_another_images_mask(release_3d, folder, tmp_path, scan):
    nifti.write(folder / "a.nii", scan((9, 9, 9)), affine=AFFINE)
    summary = answer(release_3d, folder, tmp_path / "masks")
    assert "would overwrite" in summary.failed["a.nii.gz"]
    assert nifti.read(summary.written["a.nii"]).shape == (9, 9, 9)


def test_a_name_in_brackets_is_no_markup(release_3d, folder, tmp_path, capsys):
    (folder / "damaged.nii.gz").rename(folder / "x[bold].nii.gz")
    assert "x[bold].nii.gz" in answer(release_3d, folder, tmp_path / "masks").failed
    assert "x[bold].nii.gz" in capsys.readouterr().out


def test_stages_are_told_in_milliseconds(release_3d, release_classes, folder, pictures, tmp_path):
    stages = answer_file(load(release_3d), [folder / "a.nii.gz"], tmp_path / "m.nii.gz").stages_ms
    assert list(stages) == ["read", "preprocess", "network", "postprocess", "write"]
    assert all(0 < value < 60_000 for value in stages.values())
    stages = answer_file(
        load(release_classes), [pictures / "dark.png"], tmp_path / "answer.json"
    ).stages_ms
    assert list(stages) == ["read", "preprocess", "network", "write"]


@pytest.mark.parametrize("target", ["table.csv", "table.json", "folder"])
def test_classes_of_a_folder_are_one_table(release_classes, pictures, tmp_path, target):
    (pictures / "damaged.png").write_bytes(b"")
    summary = answer(release_classes, pictures, tmp_path / target)
    path = tmp_path / target / "probabilities.csv" if target == "folder" else tmp_path / target
    rows = json.loads(path.read_text()) if target.endswith("json") else table(path)
    assert [(row["image"], row["prediction"]) for row in rows] == [
        ("bright.png", "bright"),
        ("dark.png", "dark"),
    ]
    for row in rows:
        values = row.get("probabilities", row)
        assert float(values["dark"]) + float(values["bright"]) == pytest.approx(1, abs=1e-6)
        assert float(row["confidence"]) == float(values[row["prediction"]])
    assert summary.written == {"bright.png": path, "dark.png": path}
    assert list(summary.failed) == ["damaged.png"]


def test_the_json_of_classes_holds_the_records(release_classes, pictures, changed, tmp_path):
    promise = {"promised": 0.9, "thresholds": {"all": 0.0}, "cases": 9}
    release = changed(release_classes, conformal=promise)
    answer(release, pictures, tmp_path / "t.json")
    predictor = load(release)
    said = []
    for path in sorted(pictures.iterdir()):
        volume = read_image(path)
        said.append(record(path.name, volume, predictor.answer(volume), predictor.manifest))
    assert json.loads((tmp_path / "t.json").read_text()) == said
    assert said[0]["conformal"] == {"promised": 0.9, "set": ["dark", "bright"]}
    answer_file(predictor, [pictures / "bright.png"], tmp_path / "one.JSON")
    assert json.loads((tmp_path / "one.JSON").read_text()) == said[:1]
    rows = table_of(release, pictures, tmp_path)
    assert {row["conformal_set"] for row in rows} == {"dark|bright"}


def test_a_classified_dicom_image_gets_a_report_and_its_record(release_slices, mr_slice, tmp_path):
    for name, value in (("dark", 9000), ("bright", 50000)):
        (tmp_path / "study" / name).mkdir(parents=True)
        pixels = np.full((10, 14), value, np.uint16)
        mr_slice(name, 0, pixels).save_as(tmp_path / "study" / name / "0.dcm")
    summary = answer(release_slices, tmp_path / "study", tmp_path / "out")
    assert not summary.failed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *("bright.dcm", "bright.json", "dark.dcm", "dark.json"),
        *("probabilities.csv", "summary.json"),
    }
    predictor = load(release_slices)
    for name in ("dark", "bright"):
        volume = read_image(
            tmp_path / "study" / name / "0.dcm", predictor.manifest.preprocess.reading
        )
        expected = predictor.answer(volume)
        assert list(expected.confidence) == [name]
        report = highdicom.sr.srread(tmp_path / "out" / f"{name}.dcm")
        (group,) = report.content.get_image_measurement_groups()
        assert group.finding_type.meaning == name
        values = [measured.value for measured in group.get_measurements()]
        np.testing.assert_allclose(values, expected.probabilities, rtol=1e-6)
        said = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert said == record(name, volume, expected, predictor.manifest)


def test_a_folder_of_which_all_fail_has_a_summary(release_3d, release_classes, folder, tmp_path):
    for path in folder.glob("*.nii*"):
        path.write_bytes(b"")
    for release, target in ((release_3d, "masks"), (release_classes, "new/classes")):
        summary = answer(release, folder, tmp_path / target)
        told = json.loads((tmp_path / target / "summary.json").read_text())
        failed = {"failed": summary.failed}
        assert told == {"answered": {}, "unlike": {}, **failed, "not_reached": []}
        assert len(summary.failed) == 3
    answer(release_classes, folder, tmp_path / "t.csv")
    assert not (tmp_path / "t.csv").exists()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file: cannot be written \(.+\); choose another output"):
        answer(release_3d, folder, tmp_path / "file")


def test_classes_of_a_medmnist_file(release_classes, tmp_path):
    stack = np.stack([np.full((10, 10), value, np.uint8) for value in (10, 250, 20)])
    colour = np.repeat(stack[..., None], 3, axis=-1)
    np.savez(tmp_path / "m.npz", val_images=stack, test_images=colour, test_labels=np.ones(3))
    summary = answer(release_classes, tmp_path / "m.npz", tmp_path / "t.csv")
    assert [row["prediction"] for row in table(tmp_path / "t.csv")] == [
        "dark",
        "bright",
        "dark",
    ] * 2
    assert list(summary.written)[::3] == ["val_images/00000", "test_images/00000"]


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_truncated_npz_is_refused(release_classes, tmp_path, share):
    np.savez(tmp_path / "whole.npz", test_images=np.zeros((9, 9, 9), np.uint8))
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "m.npz").write_bytes(content[: int(share * len(content))])
    with pytest.raises(DataError, match=r"m\.npz: truncated or not an npz"):
        answer(release_classes, tmp_path / "m.npz", tmp_path)


def test_an_npz_that_is_none_is_refused(release_classes, tmp_path):
    with pytest.raises(DataError, match=r"gone\.npz: no such file"):
        answer(release_classes, tmp_path / "gone.npz", tmp_path)
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros(3))
    with pytest.raises(DataError, match=r"array\.npz: truncated or not an npz"):
        answer(release_classes, tmp_path / "array.npz", tmp_path)
    np.savez(tmp_path / "other.npz", labels=np.zeros(3))
    with pytest.raises(DataError, match=r"other\.npz: holds no array whose name ends in 'images'"):
        answer(release_classes, tmp_path / "other.npz", tmp_path)


def test_an_input_that_is_none_is_refused(release_3d, tmp_path):
    with pytest.raises(DataError, match=r"gone: no such file or folder"):
        answer(release_3d, tmp_path / "gone", tmp_path / "m")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no image"):
        answer(release_3d, tmp_path / "empty", tmp_path / "m")
    with pytest.raises(ReleaseError, match="not a release"):
        answer(tmp_path / "empty", tmp_path, tmp_path / "m")


@pytest.mark.parametrize("name", ["new/t.csv", "new/t.json"])
def test_probabilities_come_back_from_their_table(tmp_path, name):
    rows = [{"image": 'a "b", c.png', "dark": 0.1, "bright": 0.9, "prediction": "bright"}]
    write_probabilities(tmp_path / name, rows)
    assert [p.name for p in (tmp_path / "new").iterdir()] == [name[4:]]
    back = json.loads((tmp_path / name).read_text()) if "json" in name else table(tmp_path / name)
    assert [{k: str(v) for k, v in row.items()} for row in rows] == [
        {k: str(v) for k, v in row.items()} for row in back
    ]


ON_A_DEVICE = """
import sys

OF_EXTRAS = {
    *("torch", "monai", "mlflow", "albumentations", "scipy"),
    *("highdicom", "pynetdicom", "gdcm", "pylibjpeg", "openjpeg", "rle", "jpeg_ls"),
}

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in OF_EXTRAS:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Refuse())
"""

IN_PYTHON = """
from medkd.data.reader import read_image, write_mask
from medkd.data.preprocess import preprocess
from medkd.device import load

release, source, target = sys.argv[1:]
volume = read_image(__import__("pathlib").Path(source))
mask = load(release).predict(volume)
write_mask(__import__("pathlib").Path(target), mask, affine=volume.affine)
"""

BY_COMMAND = """
from medkd.cli import main

main()
"""


def on_a_device(code, *arguments):
    command = [sys.executable, "-c", ON_A_DEVICE + code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("how", [[IN_PYTHON], [BY_COMMAND, "predict"]], ids=["python", "command"])
def test_a_device_needs_no_library_of_an_extra(release_3d, folder, tmp_path, how):
    done = on_a_device(*how, release_3d, folder / "a.nii.gz", tmp_path / "mask.nii.gz")
    assert done.returncode == 0, done.stderr
    expected = load(release_3d).answer(nifti.read(folder / "a.nii.gz")).mask
    np.testing.assert_array_equal(nifti.read(tmp_path / "mask.nii.gz").array[0], expected)


def test_the_command_counts_failures_and_tells_them_by_its_exit_code(release_3d, folder, tmp_path):
    done = on_a_device(BY_COMMAND, "predict", release_3d, folder, tmp_path / "masks")
    assert done.returncode == 3
    assert "2 answered, 1 failed" in done.stdout
    assert "damaged.nii.gz: truncated" in done.stdout


def test_the_command_explains_a_release_that_is_none(folder, tmp_path):
    done = on_a_device(BY_COMMAND, "predict", folder, folder, tmp_path / "masks")
    assert done.returncode == 3
    assert "not a release" in done.stderr
    assert "Traceback" not in done.stderr


def guarded(release, folder, images):
    """Copy a release and give it a guard that knows images like these."""
    shutil.copytree(release, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    options = load(release).manifest.preprocess
    seen = [describe(*preprocess(image, options)) for image in images]
    guard = fit_guard(seen[::2], seen[1::2], accept=0.9)
    (folder / MANIFEST).write_text(json.dumps(manifest | {"guard": guard.model_dump()}))
    return folder


def test_an_image_unlike_the_usual_is_answered_with_a_warning(release_3d, scan, tmp_path, capsys):
    usual = [Volume(scan((14, 12, 9), seed=seed)[None], np.eye(4)) for seed in range(30)]
    release = guarded(release_3d, tmp_path / "release", usual)
    source = tmp_path / "scans"
    source.mkdir()
    nifti.write(source / "usual.nii.gz", usual[0].array[0], affine=np.eye(4))
    nifti.write(source / "thick.nii.gz", usual[0].array[0], affine=np.diag([1.0, 1.0, 6.0, 1.0]))
    summary = answer(release, source, tmp_path / "masks")
    assert summary.written.keys() == {"usual.nii.gz", "thick.nii.gz"}
    assert list(summary.unlike) == ["thick.nii.gz"]
    verdict = "unlike the validated data: spacing of axis 2: 6 mm, expected 1-1"
    assert summary.unlike["thick.nii.gz"].startswith(verdict)
    said = " ".join(capsys.readouterr().out.split())
    assert f"thick.nii.gz: {verdict}" in said
    assert "usual.nii.gz" not in said
    guard = json.loads((tmp_path / "masks" / "thick.json").read_text())["guard"]
    assert guard["unlike"]
    assert guard["verdict"] == summary.unlike["thick.nii.gz"]
    refusing = answer(release, source, tmp_path / "strict", how=How(strict=True))
    assert refusing.written.keys() == {"usual.nii.gz"}
    assert refusing.failed["thick.nii.gz"].startswith(f"refused: {verdict}")
    assert not (tmp_path / "strict" / "thick.nii.gz").exists()


def test_the_table_of_classes_says_which_images_are_unlike_the_usual(
    release_classes, pictures, tmp_path
):
    rng = np.random.default_rng(0)
    flat = [
        np.full((10, 14), v, np.uint8) + rng.integers(0, 3, (10, 14), np.uint8)
        for v in range(0, 200, 5)
    ]
    usual = [Volume(image[None], np.eye(3)) for image in flat]
    release = guarded(release_classes, tmp_path / "release", usual)
    images.write(pictures / "usual.png", flat[0])
    rows = {row["image"]: row["guard"] for row in table_of(release, pictures, tmp_path)}
    assert rows["usual.png"] == "like the validated data"
    assert rows["dark.png"].startswith("unlike the validated data: ")  # not a bit of noise in it


def table_of(release, source, folder):
    answer(release, source, folder / "p.csv")
    return table(folder / "p.csv")


def test_a_dicom_study_gets_segmentations_named_after_its_folders(
    release_3d, write_series, tmp_path
):
    study = tmp_path / "study"
    for name in ("t1", "t2"):
        write_series(study / "visit" / name, series=name)
    write_series(study / "broken", series="broken")
    (study / "broken" / "003.dcm").unlink()
    summary = answer(release_3d, study, tmp_path / "out")
    assert sorted(summary.written) == ["visit/t1", "visit/t2"]
    assert "missing slices: 1" in summary.failed["broken"]
    made = dcmread(tmp_path / "out" / "visit" / "t1.dcm")
    assert made.Modality == "SEG"
    said = json.loads((tmp_path / "out" / "visit" / "t1.json").read_text())
    assert set(said["volumes_ml"]) == {"organ", "lesion"}


def test_one_unreadable_slice_fails_its_folder_and_stops_no_other(
    release_3d, write_series, tmp_path, monkeypatch
):
    """The last slice of a series is emptied: nothing else tells that one is missing."""
    study = tmp_path / "study"
    for name in ("t1", "t2"):
        write_series(study / name, series=name)
    (study / "t2" / "002.dcm").write_bytes(b"")
    summary = answer(release_3d, study, tmp_path / "out")
    assert list(summary.written) == ["t1"]
    told = "1 file of this folder is unreadable: 002.dcm (empty); mend or remove it"
    assert summary.failed == {"t2": told}
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["failed"] == {"t2": told}
    monkeypatch.chdir(study / "t1")
    alone = answer(release_3d, Path(), tmp_path / "alone")
    assert alone.written == {"t1": tmp_path / "alone" / "t1.dcm"}


def test_what_was_mended_is_in_the_segmentation_and_its_record(
    release_3d, changed, write_series, tmp_path
):
    folder = write_series(tmp_path / "t1")
    (folder / "003.dcm").unlink()
    options = load(release_3d).manifest.preprocess.model_dump(mode="json")
    options["reading"]["resample_missing"] = 1
    answer(changed(release_3d, preprocess=options), folder, tmp_path / "out")
    (remedy,) = json.loads((tmp_path / "out" / "t1.json").read_text())["mended"]
    assert dcmread(tmp_path / "out" / "t1.dcm").ImageComments == f"mended: {remedy}"


def test_without_the_extra_a_device_reads_dicom_and_says_what_writes_it(
    release_3d, write_series, tmp_path
):
    series = write_series(tmp_path / "one")
    done = on_a_device(BY_COMMAND, "predict", release_3d, series, tmp_path / "out")
    assert done.returncode == MissingExtraError.exit_code
    assert "highdicom is not installed; pip install '.[dicom]'" in done.stderr
    done = on_a_device(BY_COMMAND, "predict", release_3d, series, tmp_path / "out", "--nifti")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "one.nii.gz").exists()


def test_dicom_images_get_nifti_where_that_is_asked_for(release_3d, write_series, tmp_path):
    series = write_series(tmp_path / "one")
    for target, how in ((tmp_path / "a.nii.gz", How()), (tmp_path / "out", How(nifti=True))):
        (written,) = answer(release_3d, series, target, how=how).written.values()
        assert written.name.endswith(".nii.gz")
    assert "DICOM" in answer_of_nifti_as_dicom(release_3d, tmp_path)


def answer_of_nifti_as_dicom(release, folder):
    summary = answer(release, folder / "a.nii.gz", folder / "b.dcm")
    return summary.failed["a.nii.gz"]


def test_many_files_may_be_given(release_3d, folder, tmp_path):
    sources = [folder / "a.nii.gz", folder / "b.v2.nii"]
    assert len(answer(release_3d, sources, tmp_path / "masks").written) == 2


def test_probabilities_are_written_where_they_are_asked_for(
    release_3d, release_2d, folder, scan, tmp_path
):
    how = How(probabilities=True)
    answer(release_3d, folder / "a.nii.gz", tmp_path / "m.nii.gz", how=how)
    maps = nibabel.load(tmp_path / "m.probabilities.nii.gz")
    mask = nibabel.load(tmp_path / "m.nii.gz")
    np.testing.assert_array_equal(maps.affine, mask.affine)
    assert maps.shape == (*mask.shape, 3)
    np.testing.assert_allclose(maps.get_fdata().sum(axis=-1), 1, atol=1e-5)
    images.write(tmp_path / "p.png", np.clip(scan((20, 31)), 0, 255).astype(np.uint8))
    answer(release_2d, tmp_path / "p.png", tmp_path / "q.png", how=how)
    assert np.load(tmp_path / "q.probabilities.npy").shape == (20, 31, 3)


def test_an_unexpected_failure_is_one_images_own(release_3d, folder, tmp_path, monkeypatch):
    def exhausted(path, options):
        if path.name == "a.nii.gz":
            raise MemoryError
        return nifti.read(path, options)

    monkeypatch.setattr("medkd.device.inputs.read_image", exhausted)
    summary = answer(release_3d, folder, tmp_path / "masks")
    assert summary.failed["a.nii.gz"] == "it takes more memory than there is"
    assert "b.v2.nii" in summary.written


def test_no_answer_is_written_over_the_record_of_another(
    release_3d, write_series, folder, tmp_path
):
    study = tmp_path / "study"
    write_series(study / "one")
    shutil.copy(folder / "a.nii.gz", study / "one.nii.gz")
    summary = answer(release_3d, study, tmp_path / "out")
    assert len(summary.written) == len(summary.failed) == 1
    ((_, reason),) = summary.failed.items()
    assert "would overwrite" in reason


def test_a_dicom_study_of_several_modalities_gets_one_segmentation(
    release_two, write_series, tmp_path
):
    for seed, name in enumerate(["t1", "flair"]):
        folder = write_series(tmp_path / "study" / name, series=name, seed=seed)
        for path in folder.iterdir():
            image = dcmread(path)
            image.SeriesDescription, image.FrameOfReferenceUID = f"ax {name}", "1.2.3"
            image.save_as(path)
    summary = answer(release_two, tmp_path / "study", tmp_path / "out")
    (place,) = summary.written.values()
    seg, first = dcmread(place), dcmread(tmp_path / "study" / "t1" / "000.dcm")
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == first.SeriesInstanceUID
    alone = answer(release_two, tmp_path / "study" / "t1", tmp_path / "alone")
    assert "no series of flair" in alone.failed["t1"]


@pytest.mark.parametrize("dims", [2, 3])
def test_structures_that_overlap_are_channels_of_one_file(
    release_overlapping, release_overlapping_2d, scan, tmp_path, dims
):
    release = release_overlapping if dims == 3 else release_overlapping_2d
    array = scan((18, 14, 12)[:dims])
    name, suffix = ("a.nii.gz", ".nii.gz") if dims == 3 else ("a.png", ".tif")
    image = tmp_path / name
    if dims == 3:
        nifti.write(image, array, affine=np.diag([1, 2, 3, 1.0]))
    else:
        images.write(image, array.clip(0, 255).astype(np.uint8))
    done = answer(release, [image], tmp_path / "out")
    (place,) = done.written.values()
    assert place.name == f"a{suffix}"
    expected = load(release).answer(read_image(image)).mask
    np.testing.assert_array_equal(read_label(place, several=True).array, expected)
    assert expected.sum(axis=0).max() == 2
    assert place.with_name("a.json").exists()
    refused = answer(release, [image], tmp_path / "mask.png")
    assert "masks that may overlap are written to a name that ends" in refused.failed[image.name]


def test_findings_of_a_folder_are_one_table_in_the_words_of_a_datalist(
    release_findings, pictures, changed, tmp_path
):
    images.write(pictures / "half.png", np.tile(np.uint8([255, 64]).repeat(8), (16, 1)))
    promise = {"promised": 0.9, "thresholds": {"dark": 0.0, "bright": 0.5}, "cases": 9}
    release = changed(release_findings, conformal=promise)
    rows = table_of(release, pictures, tmp_path)
    assert {row["image"]: (row["prediction"], row["conformal_set"]) for row in rows} == {
        "bright.png": ("dark", "dark"),
        "dark.png": ("none", "dark"),
        "half.png": ("dark|bright", "dark|bright"),
    }
    sums = [float(row["dark"]) + float(row["bright"]) for row in rows]
    assert min(sums) < 0.5
    assert max(sums) > 1.1
    answer(release, pictures, tmp_path / "table.json")
    said = {each["image"]: each for each in json.loads((tmp_path / "table.json").read_text())}
    assert {
        name: (each["prediction"], each["conformal"]["set"]) for name, each in said.items()
    } == {
        "bright.png": (["dark"], ["dark"]),
        "dark.png": ([], ["dark"]),
        "half.png": (["dark", "bright"], ["dark", "bright"]),
    }
