import json
import os
import re

import numpy as np
import pytest

from medkd.data.datalist import read_datalist
from medkd.errors import ConfigError, DataError, StudyError
from medkd.types import Task

CASES = """image,label,patient,site
img/a.nii.gz,lab/a.nii.gz,p1,north
img/b.nii.gz,lab/b.nii.gz,p2,south
"""
TABLE = "id,patient,sex\na,p1,f\nb,p2,m\nunused,p3,f\n"
DECATHLON = {
    "labels": {"0": "background"},
    "training": [
        {"image": "./imagesTr/a.nii.gz", "label": "./labelsTr/a.nii.gz"},
        {"image": "./imagesTr/b.nii.gz", "label": "./labelsTr/b.nii.gz"},
    ],
    "test": ["./imagesTs/c.nii.gz"],
}
CLASSES = {"labels": {"healthy": 0, "ill": 1}}


@pytest.fixture
def cases(tmp_path, make_study):
    """Return a reader of a datalist's text: ``cases(text, data={...})``."""

    def read(
        text, *, name="cases.csv", encoding="utf-8", task="segmentation", preprocess=None, **data
    ):
        (tmp_path / name).write_bytes(text.encode(encoding))
        more = {"preprocess": preprocess} if preprocess else {}
        return read_datalist(make_study(data={"source": name} | data, task=task, **more))

    return read


def test_a_csv_gives_cases_in_its_order_with_attributes(cases, tmp_path):
    first, second = cases(CASES)
    assert (first.id, second.id) == ("a", "b")
    assert first.image == tmp_path / "img/a.nii.gz"
    assert first.label == tmp_path / "lab/a.nii.gz"
    assert (first.patient, first.attributes) == ("p1", {"site": "north"})


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_csv_saved_by_a_spreadsheet_is_read(cases, encoding, newline):
    assert len(cases(CASES.replace("\n", newline), encoding=encoding)) == 2


def test_the_column_of_ids_and_patients_has_any_name(cases):
    text = "study_id,image,label,subject\n x7 ,a.nii,b.nii,p1\n"
    (only,) = cases(text, case="study_id", patient="subject")
    assert (only.id, only.patient, only.attributes) == ("x7", "p1", {})


def test_patterns_stand_for_columns(cases, tmp_path):
    (only,) = cases(
        "case,patient\n7,p1\n", image="images/{case}.png", label="masks/{case}/{case}.png"
    )
    assert only.image == tmp_path / "images/7.png"
    assert only.label == tmp_path / "masks/7/7.png"


def test_a_pattern_without_a_column_of_ids_leaves_the_columns(cases, tmp_path):
    first, _ = cases(CASES, image="images/{case}.png")
    assert first.image == tmp_path / "img/a.nii.gz"


def test_each_image_may_be_a_person(cases):
    assert [case.patient for case in cases(CASES, patient="case")] == ["a", "b"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_decathlon_with_a_table_of_patients(cases, tmp_path, encoding):
    (tmp_path / "table.csv").write_text(TABLE)
    first, second = cases(
        json.dumps(DECATHLON), name="dataset.json", encoding=encoding, table="table.csv", case="id"
    )
    assert (first.id, first.patient, first.attributes) == ("a", "p1", {"sex": "f"})
    assert second.image == tmp_path / "imagesTr/b.nii.gz"


def test_classes_are_given_by_name_or_index(cases):
    text = "image,label,patient\na.png,ill,1\nb.png,0,2\nc.png,1,3\n"
    found = cases(text, task=Task.CLASSIFICATION, **CLASSES)
    assert [case.label for case in found] == [1, 0, 1]


TWO = {"channels": 2, "modalities": ["t1", "flair"], "window": [16, 16, 16]}
COLUMNS = "case,t1,flair,label,patient,site\nx,a/1.nii,b/2.nii,l.nii,p,north\n"


def test_modalities_are_columns_of_files(cases, tmp_path):
    (only,) = cases(COLUMNS, preprocess=TWO)
    assert only.images == (tmp_path / "a/1.nii", tmp_path / "b/2.nii")
    assert (only.id, only.image, only.attributes) == ("x", only.images[0], {"site": "north"})


def test_modalities_are_the_list_of_files_of_a_json(cases, tmp_path):
    entry = {"image": ["im/a_0000.nii.gz", "im/a_0001.nii.gz"], "label": "a.nii.gz"}
    text = json.dumps({"training": [entry]})
    given = {"name": "dataset.json", "patient": "case"}
    (only,) = cases(text, preprocess=TWO, **given)
    assert only.id == "a"
    assert only.images == tuple(tmp_path / f"im/a_000{n}.nii.gz" for n in range(2))
    three = TWO | {"channels": 3, "modalities": ["t1", "t2", "flair"]}
    with pytest.raises(DataError, match=r'entry 1 names 2 files under "image", .* names 3'):
        cases(text, preprocess=three, **given)


def test_a_file_of_all_modalities_has_the_column_image(cases, tmp_path):
    first, _ = cases(CASES, preprocess=TWO)
    assert first.images == (tmp_path / "img/a.nii.gz",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (COLUMNS.replace("flair", "t2"), r"no column 'flair' .*modalities asks for t1, flair"),
        (COLUMNS.replace("b/2.nii", ""), "case x: the column 'flair' is empty; fill it"),
    ],
)
def test_a_modality_that_is_missing_is_named(cases, text, message):
    with pytest.raises(DataError, match=message):
        cases(text, preprocess=TWO)


def test_an_environment_variable_may_stand_before_the_root(cases, tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_DATA", str(tmp_path))
    assert len(cases(CASES, root="$SOME_DATA")) == 2
    monkeypatch.delenv("SOME_DATA")
    with pytest.raises(ConfigError, match=r"SOME_DATA is not set; export SOME_DATA=FOLDER"):
        cases(CASES, root="$SOME_DATA")


REFUSED = {
    "no patient column": (
        CASES.replace("patient", "person"),
        {},
        r"no column 'patient' \(has image, label, person, site\); .*data\.patient.*leaks",
    ),
    "empty patient": (CASES.replace("p2", ""), {}, "case b: the column 'patient' is empty; fill"),
    "empty image": (
        CASES.replace("img/b.nii.gz", ""),
        {},
        "case in row 2 below the header: the column 'image' is empty; fill it",
    ),
    "twice": (CASES.replace("img/b", "other/a"), {}, "two cases are called a; add a column `case`"),
    "no label column": ("image,patient\na.nii,p\n", {}, "no column 'label' .* data.label gives"),
    "semicolons": (CASES.replace(",", ";"), {}, "no column 'image' .has image;label"),
    "unknown class": (CASES, {"task": "classification"} | CLASSES, "has label 'lab/a.*healthy"),
    "only a header": ("image,label,patient\n", {}, "holds no cases"),
    "empty": ("", {}, "holds no cases"),
    "no CSV": ('a,b\n"' + "x" * 200_000, {}, "not a CSV file"),
}


@pytest.mark.parametrize(("text", "options", "message"), REFUSED.values(), ids=REFUSED)
def test_a_csv_that_cannot_be_used_is_refused(cases, text, options, message):
    with pytest.raises(DataError, match=rf"cases\.csv: .*{message}"):
        cases(text, **options)


def test_a_case_without_a_label_is_unlabelled(cases):
    found = {case.id: case.label for case in cases(CASES.replace("lab/b.nii.gz", ""))}
    assert found["b"] is None
    assert found["a"] is not None


def test_a_csv_in_another_encoding_is_refused(cases):
    with pytest.raises(DataError, match=r"cases\.csv: not a CSV file"):
        cases(CASES.replace("north", "Zürich"), encoding="latin-1")


@pytest.mark.parametrize("index", [-1, 2, "1.0", "Ill"])
def test_an_index_outside_the_classes_is_refused(cases, index):
    with pytest.raises(DataError, match=f"case a has label '{index}'; data.labels declares"):
        cases(f"image,label,patient\na.png,{index},1\n", task="classification", **CLASSES)


SOUND = '{"image": "a.nii", "label": "a.nii"}'
MALFORMED = {
    "": "no JSON: Expecting value in line 1, column 1",
    '{\n"training": [,]}': "no JSON: Expecting value in line 2, column 14",
    "[]": 'no list "training"',
    '{"validation": []}': 'no list "training"',
    '{"training": 7}': 'no list "training"',
    '{"training": ["a.nii"]}': 'entry 1 names no file under "image"',
    f'{{"training": [{SOUND}, {{"label": "a.nii"}}]}}': 'entry 2 names no file under "image"',
    '{"training": [{"image": ["t1.nii", "t2.nii"]}]}': (
        'entry 1 names 2 files under "image", preprocess.modalities names 0'
    ),
    '{"training": [{"image": []}]}': 'entry 1 names no file under "image"',
    '{"training": [{"image": 7, "label": "a.nii"}]}': 'entry 1 names no file under "image"',
}


@pytest.mark.parametrize(("text", "reason"), MALFORMED.items())
def test_a_json_that_is_no_datalist_is_refused_in_plain_words(cases, text, reason):
    with pytest.raises(DataError) as caught:
        cases(text, name="dataset.json")
    assert f"dataset.json: not a Decathlon datalist ({reason}); it needs" in str(caught.value)


def test_decathlon_without_a_table_of_patients_is_told_what_the_table_holds(cases):
    message = r"dataset\.json: .* CSV with the columns id and subject as data\.table\."
    with pytest.raises(DataError, match=message):
        cases(json.dumps(DECATHLON), name="dataset.json", case="id", patient="subject")


def test_decathlon_s_list_of_test_images_is_left_out(cases):
    found = cases(json.dumps(DECATHLON), name="dataset.json", patient="case")
    assert [case.id for case in found] == ["a", "b"]


def test_a_decathlon_entry_without_a_label_is_unlabelled(cases):
    more = DECATHLON["training"] + [{"image": "./imagesTs/c.nii.gz"}]
    *_, last = cases(json.dumps({"training": more}), name="dataset.json", patient="case")
    assert (last.id, last.label) == ("c", None)


def test_a_json_without_cases_is_refused(cases):
    with pytest.raises(DataError, match=r"dataset\.json: holds no cases"):
        cases('{"training": []}', name="dataset.json")


@pytest.mark.parametrize("name", ["gone.csv", "gone.json", "gone.npz"])
def test_a_missing_source_is_refused(make_study, name):
    with pytest.raises(DataError, match=rf"{name}: no such file; data\.root and data\.source"):
        read_datalist(make_study(data={"source": name}))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (None, "no such file"),
        (
            "patient,sex\np1,f\n",
            r"no column 'id' \(has patient, sex\); the table needs .*ids.*data\.case names it",
        ),
        ("id,patient\na,p1\n", "no row for case b; add"),
        ("id,patient\na,p1\nb,\n", "case b: the column 'patient' is empty; fill it"),
        ("id,person\na,p1\nb,p2\n", r"no column 'patient' \(has id, person\); .*data\.patient"),
        (TABLE + "a,p9,m\n", "two rows for case a; keep one"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(cases, tmp_path, table, message):
    if table:
        (tmp_path / "table.csv").write_text(table)
    with pytest.raises(DataError, match=rf"table\.csv: {message}"):
        cases(json.dumps(DECATHLON), name="dataset.json", table="table.csv", case="id")


@pytest.fixture
def medmnist(tmp_path, make_study):
    """Return a maker of a study of a MedMNIST file, whose pixels depend on a seed."""

    def make(seed=0):
        rng = np.random.default_rng(seed)
        arrays = {}
        for part in ("train", "val", "test"):
            arrays[f"{part}_images"] = rng.integers(0, 256, (3, 8, 8), dtype=np.uint8)
            arrays[f"{part}_labels"] = np.array([[0], [1], [0]], np.uint8)
        np.savez(tmp_path / "m.npz", **arrays)
        return make_study(data={"source": "m.npz"} | CLASSES, task="classification")

    return make


def test_medmnist_is_unpacked_once_and_keeps_its_split(medmnist):
    study = medmnist()
    found = read_datalist(study)
    assert [case.attributes["split"] for case in found] == ["train"] * 3 + ["validation"] * 3 + [
        "test"
    ] * 3
    assert all(case.image.is_file() for case in found)
    assert read_datalist(study) == found


def test_medmnist_is_known_by_its_content_not_by_its_date(tmp_path, medmnist):
    study, path = medmnist(), tmp_path / "m.npz"
    read_datalist(study)
    os.utime(path, ns=(0, 0))
    read_datalist(study)
    before = path.stat()
    medmnist(seed=1)
    assert path.stat().st_size == before.st_size
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(StudyError, match="made before content changed"):
        read_datalist(study)


def test_a_truncated_medmnist_file_leaves_nothing_behind(tmp_path, medmnist):
    study, path = medmnist(), tmp_path / "m.npz"
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"m\.npz: truncated"):
        read_datalist(study)
    assert not study.folder.exists()


@pytest.mark.parametrize("source", ["phantom", "m.npz"])
def test_cases_that_another_process_writes_are_not_written_twice(medmnist, make_study, source):
    study = medmnist() if source == "m.npz" else make_study(data={"source": source})
    with study.lock(), pytest.raises(StudyError, match="another process works on this study"):
        read_datalist(study)
    found = read_datalist(study)
    with study.lock():
        assert read_datalist(study) == found


ANNOTATED = """image,label,patient,drawn
a.nii,a-label.nii,p1,lesion
b.nii,b-label.nii,p2,
c.nii,c-label.nii,p3,lesion organ
d.nii,,p4,organ
e.nii,e-label.nii,p5,organ;
"""


def test_a_column_says_which_structures_a_label_covers(cases):
    told = [case.annotated for case in cases(ANNOTATED, annotated="drawn")]
    assert told == [("lesion",), None, None, None, ("organ",)]
    assert not any(case.attributes for case in cases(ANNOTATED, annotated="drawn"))


def test_names_with_spaces_are_separated_by_semicolons(cases):
    labels = {"left organ": 1, "right organ": 2, "lesion": 3}
    text = "image,label,patient,drawn\na.nii,l.nii,p1,left organ\nb.nii,m.nii,p2,{}\n"
    read = cases(text.format("lesion; left organ"), annotated="drawn", labels=labels)
    assert [case.annotated for case in read] == [("left organ",), ("left organ", "lesion")]


def test_the_table_of_a_decathlon_datalist_says_what_its_labels_cover(cases, tmp_path):
    (tmp_path / "t.csv").write_text("case,patient,drawn\na,p1,organ\nb,p2,lesion\n")
    read = cases(json.dumps(DECATHLON), name="d.json", table="t.csv", annotated="drawn")
    assert [case.annotated for case in read] == [("organ",), ("lesion",)]


def test_a_structure_that_is_not_declared_and_a_column_that_is_not_there_are_named(cases):
    with pytest.raises(DataError, match=r"case b: the column 'drawn' names \['spleen'\]"):
        cases(ANNOTATED.replace("p2,", "p2,spleen"), annotated="drawn")
    with pytest.raises(DataError, match=r"no column 'covers' \(has image, label, patient, drawn"):
        cases(ANNOTATED, annotated="covers")


FINDINGS = {
    "task": "classification",
    "overlapping": True,
    "labels": {"effusion": 1, "pleural scar": 2, "nodule": 3},
}
FOUND = """image,label,patient,read
a.png,nodule|effusion,1,
b.png,none,2,effusion|nodule
c.png,No Finding,3,effusion; pleural scar; nodule
d.png,,4,effusion
e.png,pleural scar | nodule,5,pleural scar
"""
A_COLUMN_EACH = """image,patient,view,effusion,pleural scar,nodule
a.png,1,F,1,0,1
b.png,2,L,-1.0,0.0,1.0
c.png,3,F,0,,
d.png,4,F,,,-1
"""


class TestFindings:
    """Images have several findings, or none."""

    def test_a_label_names_them_in_any_order_or_says_that_there_is_none(self, cases):
        found = cases(FOUND, **FINDINGS)
        labels = [("effusion", "nodule"), (), (), None, ("pleural scar", "nodule")]
        assert [case.label for case in found] == labels

    def test_a_column_says_which_were_judged(self, cases):
        found = cases(FOUND, annotated="read", **FINDINGS)
        judged = [None, ("effusion", "nodule"), None, None, ("pleural scar",)]
        assert [case.annotated for case in found] == judged

    @pytest.mark.parametrize("label", ["effusion|mass", "1", "effusion|", "effusion none"])
    def test_what_is_not_declared_is_named_with_the_case(self, cases, label):
        message = (
            rf"cases\.csv: case a: its label '{re.escape(label)}' names \['.*'\]; .*write none"
        )
        with pytest.raises(DataError, match=message):
            cases(f"image,label,patient\na.png,{label},1\n", **FINDINGS)

    def test_a_table_has_a_column_of_each(self, cases):
        found = cases(A_COLUMN_EACH, **FINDINGS)
        labels = [("effusion", "nodule"), ("nodule",), (), None]
        assert [case.label for case in found] == labels
        judged = [None, ("pleural scar", "nodule"), ("effusion",), None]
        assert [case.annotated for case in found] == judged
        assert [case.attributes for case in found] == [{"view": view} for view in "FLFF"]

    @pytest.mark.parametrize("cell", ["yes", "2", "0.5"])
    def test_a_cell_that_is_no_answer_is_named(self, cases, cell):
        text = A_COLUMN_EACH.replace("4,F,,", f"4,F,{cell},")
        with pytest.raises(DataError, match=f"case d: the column 'effusion' holds '{cell}'"):
            cases(text, **FINDINGS)

    def test_columns_need_no_other_to_say_what_was_judged(self, cases):
        with pytest.raises(DataError, match=r"remove data\.annotated"):
            cases(A_COLUMN_EACH, annotated="view", **FINDINGS)

    def test_a_json_lists_them(self, cases):
        labels = [["nodule", "effusion"], [], "none", None]
        told = [{"image": f"{i}.png", "label": label} for i, label in enumerate(labels)]
        text = json.dumps({"training": told})
        found = cases(text, name="dataset.json", patient="case", **FINDINGS)
        assert [case.label for case in found] == [("effusion", "nodule"), (), (), None]

    def test_the_columns_of_a_medmnist_file_are_findings(self, tmp_path, make_study):
        rng, arrays = np.random.default_rng(0), {}
        for part in ("train", "val", "test"):
            arrays[f"{part}_images"] = rng.integers(0, 256, (2, 8, 8), dtype=np.uint8)
            arrays[f"{part}_labels"] = np.array([[0, 1, 1], [0, 0, 0]])
        np.savez(tmp_path / "m.npz", **arrays)
        data = {k: v for k, v in FINDINGS.items() if k != "task"} | {"source": "m.npz"}
        found = read_datalist(make_study(data=data, task="classification"))
        assert [case.label for case in found] == [("pleural scar", "nodule"), ()] * 3


def test_class_0_of_a_json_is_a_label(cases):
    text = json.dumps({"training": [{"image": "a.png", "label": 0}]})
    (only,) = cases(text, name="d.json", patient="case", task="classification", **CLASSES)
    assert only.label == 0
