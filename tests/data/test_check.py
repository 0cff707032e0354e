import shutil

import nibabel
import numpy as np
import pytest

from medkd.data import images, nifti
from medkd.data.check import check
from medkd.errors import DataError

AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])
SPLIT = {"validation": 0.25, "test": 0.25}


def write_case(folder, name, *, seed, label=None):
    rng = np.random.default_rng(seed)
    nifti.write(folder / f"{name}.nii.gz", rng.normal(size=(6, 6, 6)), affine=AFFINE)
    label = rng.choice([0, 1, 5], size=(6, 6, 6)) if label is None else label
    nifti.write(folder / f"{name}-label.nii.gz", label.astype(np.uint8), affine=AFFINE)


@pytest.fixture
def study(tmp_path, make_study):
    """Eight sound cases of four patients."""
    lines = ["case,image,label,patient,part"]
    for number in range(8):
        write_case(tmp_path, f"c{number}", seed=number)
        part = ("train", "train", "validation", "test")[number // 2]
        lines.append(f"c{number},c{number}.nii.gz,c{number}-label.nii.gz,p{number // 2},{part}")
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    return make_study(data={"split": SPLIT})


def problems(study):
    with pytest.raises(DataError) as caught:
        check(study)
    assert not study.folder.exists()
    lines = str(caught.value).splitlines()
    return lines[1:] if lines[0].endswith("problems in the data:") else lines


def test_sound_cases_make_a_cohort(study):
    cohort = check(study)
    assert list(cohort.cases) == [f"c{number}" for number in range(8)]
    assert sum(map(len, vars(cohort.split).values())) == 8
    assert len(set(cohort.digests.values())) == 8
    assert [case.id for case in cohort.of(cohort.split.test)] == list(cohort.split.test)
    assert not study.folder.exists()


def test_a_part_changes_its_digest_with_any_file_of_it(study, tmp_path):
    before = check(study)
    write_case(tmp_path, before.split.train[0], seed=99)
    after = check(study)
    assert after.digest_of(after.split.train) != before.digest_of(before.split.train)
    assert after.digest_of(after.split.test) == before.digest_of(before.split.test)


def shortened(path):
    path.write_bytes(path.read_bytes()[:-300])


def written(array, affine=AFFINE):
    return lambda path: nifti.write(path, array, affine=affine)


def some(value):
    array = np.random.default_rng(0).normal(size=(6, 6, 6))
    array[0, 0, :2] = value
    return array


NOISE = np.random.default_rng(0).normal(size=(6, 6, 6, 2))
LABEL = np.ones((6, 6, 6), np.uint8)
MOVED = AFFINE + np.array([[0, 0, 0, 3.0]] + [[0] * 4] * 3)

BAD = {
    "missing image": ("c3.nii.gz", lambda p: p.unlink(), ["no such file; correct its path"]),
    "missing label": ("c3-label.nii.gz", lambda p: p.unlink(), ["no such file; correct its path"]),
    "truncated image": ("c3.nii.gz", shortened, ["truncated", "copy it again"]),
    "truncated label": ("c3-label.nii.gz", shortened, ["truncated", "copy it again"]),
    "not an image": ("c3.nii.gz", lambda p: p.write_text("x" * 999), ["not a NIfTI", "copy it"]),
    "NaN": ("c3.nii.gz", written(some(np.nan)), ["2 voxels are NaN", "repair or remove"]),
    "infinite": ("c3.nii.gz", written(some(np.inf)), ["2 voxels are NaN or infinite", "remove"]),
    "constant": ("c3.nii.gz", written(np.full((6, 6, 6), 7.0)), ["every voxel is 7.0", "remove"]),
    "channels": ("c3.nii.gz", written(NOISE), ["2 channels", "set preprocess.channels: 2"]),
    "label's grid": (
        "c3-label.nii.gz",
        written(LABEL[:5]),
        ["(5, 6, 6)", "(6, 6, 6)", "resample the label"],
    ),
    "label's affine": (
        "c3-label.nii.gz",
        written(LABEL, MOVED),
        ["up to 3.00 mm", "resample the label onto the image", "the image's affine"],
    ),
    "label's spacing": (
        "c3-label.nii.gz",
        written(LABEL, np.diag([1, 1, 2.1, 1])),
        ["up to 0.50 mm", "1x1x2.1 and 1x1x2 mm", "resample"],
    ),
    "label's values": (
        "c3-label.nii.gz",
        written(LABEL * np.uint8(3)),
        ["values [3]", "'organ': 1, 'lesion': 5", "declare or correct"],
    ),
    "an image for a label": (
        "c3-label.nii.gz",
        written(np.arange(216, dtype=np.int16).reshape(6, 6, 6)),
        ["[2, 3, 4, 6, 7, 8, 9, 10] and 205 more that"],
    ),
    "label's fractions": ("c3-label.nii.gz", written(some(0.5)), ["fractions", "whole number"]),
}


@pytest.mark.parametrize(("name", "spoil", "parts"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_said_with_case_file_and_remedy(study, tmp_path, name, spoil, parts):
    spoil(tmp_path / name)
    (line,) = problems(study)
    assert line.startswith(f"case c3: {tmp_path / name}: ")
    assert all(part in line for part in parts), line


def test_all_problems_are_said_in_one_pass_and_in_order(study, tmp_path):
    for case, name in zip("012345", list(BAD)[:6], strict=True):
        file, spoil, _ = BAD[name]
        spoil(tmp_path / file.replace("c3", f"c{case}"))
    lines = problems(study)
    assert [line.split(":")[0] for line in lines] == [f"case c{number}" for number in range(6)]


def test_all_problems_of_one_case_are_said(study, tmp_path):
    written(np.full((6, 6, 6, 2), 7.0))(tmp_path / "c1.nii.gz")
    written(3 * LABEL, MOVED)(tmp_path / "c1-label.nii.gz")
    assert len(problems(study)) == 4
    (tmp_path / "c1-label.nii.gz").unlink()
    assert ["every voxel" in problems(study)[0], "no such" in problems(study)[2]] == [True, True]


def test_a_hair_of_rounding_between_two_affines_is_no_problem(study, tmp_path):
    label = np.ones((6, 6, 6), np.uint8)
    nifti.write(tmp_path / "c3-label.nii.gz", label, affine=AFFINE + 1e-4 * np.eye(4, k=3))
    check(study)


def test_the_number_of_axes_is_compared_with_the_window(study, make_study):
    lines = problems(make_study(preprocess={"window": [8, 8]}, data={"split": SPLIT}))
    assert len(lines) == 8
    assert "c0.nii.gz: 3 spatial axes, preprocess.window has 2" in lines[0]


@pytest.mark.parametrize("kinds", [("", "-label"), ("",)], ids=["both files", "image alone"])
def test_the_same_image_under_another_name_and_patient_is_found(study, tmp_path, kinds):
    cohort = check(study)
    inside, outside = cohort.split.train[0], cohort.split.test[0]
    for kind in kinds:
        shutil.copy(tmp_path / f"{inside}{kind}.nii.gz", tmp_path / f"{outside}{kind}.nii.gz")
    (line,) = problems(study)
    assert f"case {outside} (test) has the same image as case {inside} (train)" in line
    assert "give both one patient, or remove one" in line


def test_the_same_image_twice_on_one_side_is_allowed(study, tmp_path):
    one, other = check(study).split.train[:2]
    for kind in ("", "-label"):
        shutil.copy(tmp_path / f"{one}{kind}.nii.gz", tmp_path / f"{other}{kind}.nii.gz")
    check(study)


def test_a_patient_on_two_sides_of_a_given_split_is_found(study, tmp_path, make_study):
    given = make_study(data={"split": {"column": "part"}})
    check(given)
    text = (
        (tmp_path / "cases.csv")
        .read_text()
        .replace("c7-label.nii.gz,p3,test", "c7-label.nii.gz,p0,test")
    )
    (tmp_path / "cases.csv").write_text(text)
    (line,) = problems(given)
    assert "case c7: patient p0 is in test, and with case c0 in train; move all cases" in line


def test_fewer_patients_than_folds_are_refused(study, make_study):
    teacher = study.config.teacher.model_dump() | {"folds": 3}
    (line,) = problems(make_study(data={"split": SPLIT}, teacher=teacher))
    assert "teacher.folds is 3, but the train split has 2 patients" in line


def test_a_structure_that_no_training_case_holds_is_refused(study, make_study):
    labels = {"organ": 1, "lesion": 5, "cyst": 7, "stone": 8}
    lines = problems(make_study(data={"split": SPLIT, "labels": labels}))
    assert [line.split(";")[0] for line in lines] == [
        "no case of the train split holds 'cyst' (data.labels says value 7)",
        "no case of the train split holds 'stone' (data.labels says value 8)",
    ]
    assert all("correct data.labels or leave it out, add such cases" in line for line in lines)


@pytest.mark.parametrize("absent", ["train", "validation"])
def test_a_structure_may_be_absent_in_validation_alone(study, make_study, tmp_path, absent):
    given = make_study(data={"split": {"column": "part"}})
    for case_id in getattr(check(given).split, absent):
        write_case(
            tmp_path, case_id, seed=9 + int(case_id[1:]), label=np.eye(6)[..., None] + LABEL * 0
        )
    if absent == "validation":
        check(given)
    else:
        assert "holds 'lesion'" in problems(given)[0]


def test_a_card_that_is_missing_is_refused(study, make_study):
    (line,) = problems(make_study(data={"split": SPLIT}, card="nowhere.md"))
    assert "nowhere.md" in line


def test_both_files_of_a_pair_make_its_digest(study, tmp_path):
    table = (tmp_path / "cases.csv").read_text()
    for number in range(8):
        array = np.random.default_rng(number).normal(size=(6, 6, 6))
        nibabel.save(nibabel.Nifti1Pair(array, AFFINE), tmp_path / f"pair{number}.hdr")
        table = table.replace(f"c{number}.nii.gz,", f"pair{number}.hdr,")
    (tmp_path / "cases.csv").write_text(table)
    before = check(study).digests["c0"]
    voxels = bytearray((tmp_path / "pair0.img").read_bytes())
    voxels[8:16] = np.float64(0.5).tobytes()
    (tmp_path / "pair0.img").write_bytes(voxels)
    assert check(study).digests["c0"] != before


def test_a_split_without_a_part_is_refused(study, make_study):
    (line,) = problems(make_study(data={"split": {"validation": 0.0, "test": 0.25}}))
    assert "validation split is empty" in line


def test_pictures_and_classes_are_checked(tmp_path, make_study):
    rng, lines = np.random.default_rng(0), ["image,label,patient"]
    for number in range(8):
        picture = rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        images.write(tmp_path / f"c{number}.png", picture)
        lines.append(f"c{number}.png,{number % 2},p{number}")
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    study = make_study(
        task="classification",
        preprocess={"window": [8, 8], "size": [8, 8], "orientation": None, "channels": 3},
        data={"labels": {"healthy": 0, "ill": 1}, "split": SPLIT},
    )
    cohort = check(study)
    assert {case.label for case in cohort.cases.values()} == {0, 1}
    given = [
        line + (",test" if i == 1 else ",validation" if i in {3, 4} else ",train")
        for i, line in enumerate(lines)
    ]
    given[0] = lines[0] + ",part"
    (tmp_path / "cases.csv").write_text("\n".join(given))
    (line,) = problems(
        make_study(
            task="classification",
            preprocess={"window": [8, 8], "size": [8, 8], "orientation": None, "channels": 3},
            data={"labels": {"healthy": 0, "ill": 1}, "split": {"column": "part"}},
        )
    )
    assert "no case of class 'ill' in the test split" in line
    (tmp_path / "cases.csv").write_text("\n".join(lines))
    (tmp_path / "c5.png").write_bytes((tmp_path / "c5.png").read_bytes()[:60])
    (line,) = problems(study)
    assert line.startswith(f"case c5: {tmp_path / 'c5.png'}: truncated")


def test_labels_that_are_hidden_are_those_of_other_training_cases_alone(study, make_study):
    whole = check(study)
    cohort = check(make_study(data={"split": SPLIT | {"labelled": 1}}))
    assert cohort.split == whole.split
    having = {case.id for case in cohort.cases.values() if case.label is not None}
    assert having >= {*cohort.split.validation, *cohort.split.test}
    assert len(having & {*cohort.split.train}) == 1
    hidden = next(iter({*cohort.split.train} - having))
    assert cohort.digests[hidden] == cohort.images[hidden] != whole.digests[hidden]
