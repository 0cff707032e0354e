"""A whole study of two modalities, from an nnU-Net folder's naming to an answer at the bedside."""

import csv

import numpy as np
import pytest
import yaml

from medkd.config import load
from medkd.data import images, nifti
from medkd.data.check import check
from medkd.data.reader import read_image, read_label, suffix
from medkd.data.reading import image_of
from medkd.device import load as load_release
from medkd.device.answer import answer
from medkd.device.bench import bench
from medkd.device.manifest import read_manifest
from medkd.evaluate.run import evaluate
from medkd.export.release import export_all
from medkd.study import Study
from medkd.track.tracker import NullTracker
from medkd.train.run import distill, train_baseline, train_teacher
from medkd.train.soften import soften
from tests.conftest import tiny_values, write_cases, write_table

NAMES = ["t1", "flair"]


def second_modality(folder):
    """Give each case of ``write_cases`` another modality, and the datalist a column of each."""
    with (folder / "cases.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        first = folder / row.pop("image")
        volume, ending = read_image(first), suffix(first)
        path = folder / f"{row['case']}_flair{ending}"
        noise = np.random.default_rng(number).normal(size=volume.shape)
        if volume.dims == 3:
            nifti.write(path, 3000 - 5 * volume.array[0] + noise, affine=volume.affine)
        else:
            images.write(path, (200 - volume.array[0] / 2 + noise).clip(0, 255).astype(np.uint8))
        row["t1"] = first.rename(folder / f"{row['case']}_t1{ending}").name
        row["flair"] = path.name
    write_table(folder / "cases.csv", rows)


@pytest.fixture(scope="module", params=[3, 2], ids=["volumes", "pictures"])
def study(request, tmp_path_factory):
    """The study with its releases and report."""
    root = tmp_path_factory.mktemp("two")
    write_cases(root / "data", dims=request.param, task="segmentation")
    second_modality(root / "data")
    values = tiny_values(root, dims=request.param, task="segmentation")
    values["data"]["root"] = str(root)
    values["preprocess"] |= {"channels": 2, "modalities": NAMES}
    values["augment"] = {"gamma": 0.3, "noise_std": 0.1, "bias_field": 0.2}
    path = root / "two.yaml"
    path.write_text(yaml.safe_dump(values))
    study = Study(load(path), config_path=path)
    cohort = check(study)
    study.begin(cohort.split)
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    train_baseline(study, cohort, tracker=NullTracker())
    distill(study, cohort, tracker=NullTracker())
    export_all(study, cohort)
    return study, cohort, evaluate(study, cohort)


@pytest.mark.slow
def test_a_study_of_two_modalities_is_scored_and_released(study):
    opened, _, report = study
    assert {role.value for role in report.roles} == {"teacher", "baseline", "student"}
    manifest = read_manifest(opened.path("releases/student"))
    assert manifest.preprocess.modalities == tuple(NAMES)
    assert report.roles["student"].latency.queries == 2


@pytest.mark.slow
def test_files_of_a_case_are_answered_in_any_order_and_none_stands_for_another(study, tmp_path):
    opened, cohort, _ = study
    (case, *_) = cohort.of(cohort.split.test)
    release = opened.path("releases/student")
    place = tmp_path / f"mask{suffix(case.label)}"
    assert not answer(release, list(case.images[::-1]), place).failed
    volume = image_of(case, opened.config)
    np.testing.assert_array_equal(
        read_label(place).array[0], load_release(release).answer(volume).mask
    )
    alone = answer(release, case.image, tmp_path / "masks")
    assert "no file of flair" in next(iter(alone.failed.values()))


@pytest.mark.slow
def test_images_of_several_files_are_measured(study):
    opened, cohort, _ = study
    (case, *_) = cohort.of(cohort.split.test)
    (measured,) = bench([opened.path("releases/student")], case.images, queries=2, threads=1)
    assert measured.latency.queries == 2
