import csv

import pytest
import yaml

from medkd.config import load
from medkd.data.check import check
from medkd.data.quality.survey import survey
from medkd.data.start.init import init
from medkd.errors import DataError, StudyError
from medkd.study import Study
from medkd.track.tracker import NullTracker
from medkd.train.check_models import check_models
from medkd.train.run import train_baseline

LAYOUTS = [
    *("Decathlon", "nnU-Net raw", "BIDS derivative", "MedMNIST", "images and masks", "flat"),
    *("class folders", "parted", "Decathlon, two modalities", "nnU-Net raw, two channels"),
    *("nnU-Net raw, regions", "Decathlon, a mask each", "DICOM with RTSTRUCT", "DICOM with SEG"),
]
SAID = {  # of data that need a decision; what the config says of it
    "class folders without validation": "validation dealt by medkd from its training cases",
    "a test part without masks": "6 cases of validation or test have no label",
    "masks among the images of classes": "26 files are masks of the images beside them",
    "a name that no label map holds": "no label map holds rare: left out",
    "a value without a name": "TODO: label maps hold label_2",
    "an unknown licence": "",
    "classes of one name but for case": "class_a_2 is what the data set calls 'class_a'",
    "pairs of header and voxels": "",
    "nnU-Net of colour pictures": "channels: 3",
    "BIDS of two modalities": "modalities: [flair, t1w]",
    "Decathlon of a file a modality": "modalities: [t1, t2]",
}
SHORT = ["steps=2", "batch=2", "workers=0", "validate_every=1"]


def opened(path, *overrides):
    return Study(load(path, overrides=overrides), config_path=path)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_study_of_every_layout_runs_as_it_stands(lay_out, tmp_path, layout):
    made = init(lay_out(layout, tmp_path / "data"), tmp_path / "my study")
    short = [f"student.train.{text}" for text in SHORT]
    study = opened(made.config, *short)
    assert study.config.study.name == "my_study"
    check_models(study.config)
    cohort = check(study)
    with study.hold(cohort.split, digests=cohort.part_digests):
        train_baseline(study, cohort, tracker=NullTracker())
    assert study.is_complete("baseline")
    assert not survey(study).errors


@pytest.mark.parametrize("layout", list(SAID))
def test_awkward_data_pass_the_check_and_the_config_says_what_was_decided(
    lay_out, tmp_path, layout
):
    made = init(lay_out(layout, tmp_path / "data"), tmp_path / "s")
    assert SAID[layout] in made.config.read_text()
    study = opened(made.config)
    check_models(study.config)
    found = survey(study)
    assert not found.errors
    assert all(vars(found.split).values())


@pytest.mark.parametrize(
    ("layout", "names", "columns"),
    [
        ("Decathlon, two modalities", ("flair", "t1w"), ["image"]),
        ("nnU-Net raw, two channels", ("t1", "t2_flair"), ["t1", "t2_flair"]),
    ],
)
def test_modalities_are_named_in_config_and_datalist(lay_out, tmp_path, layout, names, columns):
    made = init(lay_out(layout, tmp_path / "data"), tmp_path / "s")
    options = load(made.config).preprocess
    assert (options.channels, options.modalities) == (2, names)
    header = (tmp_path / "s/cases.csv").read_text().partition("\n")[0].split(",")
    assert header[: 1 + len(columns)] == ["case", *columns]


@pytest.mark.parametrize(
    ("layout", "names", "includes", "ignore"),
    [
        ("nnU-Net raw, regions", ["ball", "core"], {"ball": ("core",)}, 3),
        ("Decathlon, a mask each", ["ball", "core_of_it"], {}, None),
    ],
)
def test_structures_that_share_voxels_keep_them(lay_out, tmp_path, layout, names, includes, ignore):
    made = init(lay_out(layout, tmp_path / "data"), tmp_path / "s")
    data = load(made.config).data
    assert (data.overlapping, list(data.labels), data.ignore) == (True, names, ignore)
    assert data.includes == includes


def test_patients_come_from_a_table_beside_the_data(lay_out, tmp_path):
    made = init(lay_out("Decathlon", tmp_path / "data"), tmp_path / "s")
    assert "column patient_id" in made.patients.how
    with (tmp_path / "s/cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["patient"] for row in rows][:4] == ["p0", "p0", "p1", "p1"]
    assert {row["site"] for row in rows} == {"n"}
    assert "patient_id" not in rows[0]


def test_where_nobody_tells_the_patients_it_is_said(lay_out, tmp_path):
    made = init(lay_out("images and masks", tmp_path / "data"), tmp_path / "s")
    assert made.patients.how.startswith("TODO: nobody tells")
    assert "TODO: nobody tells" in made.config.read_text()
    assert yaml.safe_load(made.config.read_text())["data"]["labels"] == {"foreground": 255}


def test_ages_of_bids_participants_are_attributes(lay_out, tmp_path):
    made = init(lay_out("BIDS derivative", tmp_path / "data"), tmp_path / "s")
    cases = check(opened(made.config)).cases
    assert cases["sub-03_ses-2"].attributes["age"] == "43"
    assert cases["sub-03_ses-2"].patient == "sub-03"


def test_a_study_that_is_there_is_not_overwritten(lay_out, tmp_path):
    data = lay_out("flat", tmp_path / "data")
    init(data, tmp_path / "s")
    with pytest.raises(StudyError, match="there is a study already"):
        init(data, tmp_path / "s")


def test_a_study_cannot_be_where_a_file_is(lay_out, tmp_path):
    data = lay_out("flat", tmp_path / "data")
    (tmp_path / "s").write_text("x")
    for folder in (tmp_path / "s", tmp_path / "s/t"):
        with pytest.raises(StudyError, match=r"/s: a file, and a study is a folder"):
            init(data, folder)


def test_a_folder_of_nothing_leaves_nothing_behind(tmp_path):
    (tmp_path / "data").mkdir()
    with pytest.raises(DataError, match="no data set that medkd knows"):
        init(tmp_path / "data", tmp_path / "s")
    assert not (tmp_path / "s").exists()


@pytest.mark.data
def test_hippocampus_is_proposed_what_nnunet_plans(data_root, tmp_path):
    made = init(data_root / "hippocampus", tmp_path / "hippocampus")
    config = load(made.config)
    assert config.preprocess.spacing_mm == (1, 1, 1)
    assert config.preprocess.window == (40, 56, 40)
    assert config.preprocess.intensity == "zscore"
    assert made.data.patients == 135
    assert check(opened(made.config)).split
