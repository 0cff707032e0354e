"""A whole study of two sites, each of which has drawn one of two structures."""

import numpy as np
import pytest
import yaml

from medkd.config import load
from medkd.data import images
from medkd.data.check import check
from medkd.data.reading import image_of
from medkd.device import load as load_release
from medkd.device.manifest import read_manifest
from medkd.errors import FindingsError
from medkd.evaluate.run import evaluate
from medkd.export.release import export_all
from medkd.metrics.overlap import dice
from medkd.study import Study
from medkd.track.tracker import NullTracker
from medkd.train.run import distill, train_baseline, train_teacher
from medkd.train.soften import soften
from medkd.types import Role
from tests.conftest import tiny_values, write_table

STRUCTURES = {"bright": 1, "dark": 2}
EDGE = 24
PARTS = ["train"] * 8 + ["validation"] * 4 + ["test"] * 4  # of patients, who are of either site


def discs(*, seed):
    """Return an image with a bright and a dark disc, and the label map of both."""
    rng = np.random.default_rng(seed)
    rows, columns = np.indices((EDGE, EDGE))
    label = np.zeros((EDGE, EDGE), np.uint8)
    for value, column in zip((1, 2), rng.permutation([6, 17]), strict=True):
        centre = column + rng.uniform(-1, 1), rng.uniform(6, 17)
        label[np.hypot(columns - centre[0], rows - centre[1]) < 4] = value
    image = np.array([120, 200, 40])[label] + 12 * rng.normal(size=label.shape)
    return image.clip(0, 255).astype(np.uint8), label


@pytest.fixture(scope="module")
def make_study(tmp_path_factory):
    """Return a maker of the study; its labels hold what ``covers`` says of their site."""

    def make(covers=("bright", "dark"), said=("bright", "dark")):
        root = tmp_path_factory.mktemp("sites")
        rows = []
        for number, part in enumerate(PARTS):
            image, label = discs(seed=number)
            site = number % 2
            images.write(root / f"c{number}.png", image)
            drawn = label * (label == STRUCTURES[covers[site]])
            images.write(root / f"c{number}-label.png", drawn)
            row = {"image": f"c{number}.png", "label": f"c{number}-label.png"}
            rows.append(row | {"patient": f"p{number}", "part": part, "drawn": said[site]})
        write_table(root / "cases.csv", rows)
        values = tiny_values(root, dims=2, task="segmentation")
        values["data"] |= {"root": str(root), "source": "cases.csv", "labels": STRUCTURES}
        values["data"]["annotated"] = "drawn"
        values["preprocess"]["window"] = [EDGE, EDGE]
        for role in ("teacher", "student"):
            train = {"steps": 80, "validate_every": 40, "learning_rate": 0.01, "batch": 4}
            values[role] = values[role] | {"train": values[role]["train"] | train}
        values["evaluate"] |= {"stress_cases": 2}
        path = root / "sites.yaml"
        path.write_text(yaml.safe_dump(values))
        return Study(load(path), config_path=path)

    return make


@pytest.fixture(scope="module")
def released(make_study):
    """The study with its three releases."""
    study = make_study()
    cohort = check(study)
    study.begin(cohort.split)
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    train_baseline(study, cohort, tracker=NullTracker())
    distill(study, cohort, tracker=NullTracker())
    export_all(study, cohort)
    return study, cohort


@pytest.mark.slow
@pytest.mark.parametrize("role", list(Role))
def test_both_structures_are_learned_though_no_label_holds_both(released, role):
    study, cohort = released
    release = load_release(study.path(f"releases/{role}"))
    for case in cohort.of(cohort.split.test):
        _, truth = discs(seed=int(case.id[1:]))
        mask = release.answer(image_of(case, study.config)).mask
        for structure, value in STRUCTURES.items():
            assert dice(mask == value, truth == value) > 0.6, (case.id, structure)
    assert read_manifest(study.path(f"releases/{role}")).conformal.cases == 2


@pytest.mark.slow
def test_each_structure_is_judged_by_the_cases_whose_label_covers_it(released):
    report = evaluate(*released)
    for role, result in report.roles.items():
        figures = [result.per_class[f"dice/{structure}"] for structure in STRUCTURES]
        assert [(each.cases, each.patients) for each in figures] == [(2, 2), (2, 2)]
        assert min(each.value for each in figures) > 0.6, role
        whole = result.headline["dice"].value
        assert whole == pytest.approx(np.mean([each.value for each in figures]))
        assert result.headline["ece"].value < 0.1
    assert any("Labels that cover some structures alone" in note for note in report.notes)


def test_a_column_that_contradicts_the_labels_is_found_before_anything_is_trained(make_study):
    with pytest.raises(FindingsError, match=r"holds dark, and the column 'drawn' says that it"):
        check(make_study(covers=("dark", "dark")))
    with pytest.raises(FindingsError, match="no label of the test split covers 'dark'"):
        check(make_study(covers=("bright", "bright"), said=("bright", "bright")))
