import numpy as np
import pytest

from medkd.config import Config
from medkd.data import nifti
from medkd.evaluate.score import Scores
from medkd.evaluate.subgroups import subgroups
from medkd.metrics.statistics import bootstrap_difference, bootstrap_mean
from medkd.options import SubgroupOptions
from medkd.results import Reliability
from medkd.types import Case, Role
from tests.conftest import tiny_values

SITES = ("north",) * 24 + ("south",) * 24 + ("west",) * 3 + ("",)
LOSS = {"north": 0.02, "south": 0.1, "west": 0.0, "": 0.0}


def scored(patients, **figures):
    return Scores(
        patients=patients,
        values={name: f for name, f in figures.items() if isinstance(f, np.ndarray)},
        statistics={name: f for name, f in figures.items() if callable(f)},
        headline={},
        per_class={},
        cases=(),
        reliability=Reliability(confidence=(), accuracy=(), count=()),
        failures={},
    )


@pytest.fixture
def study(tmp_path):
    """Return a maker of config, cases of four sites, and the scores of two roles."""

    def make(*named, task="segmentation", label=None):
        values = tiny_values(tmp_path, dims=3, task=task)
        groups = tuple(SubgroupOptions.model_validate(each) for each in named)
        config = Config.model_validate(values)
        evaluated = config.evaluate.model_copy(update={"subgroups": groups})
        cases = [
            Case(f"c{i}", tmp_path / "i.nii.gz", label or 0, f"p{i}", {"site": site, "age": str(i)})
            for i, site in enumerate(SITES)
        ]
        patients = tuple(case.patient for case in cases)
        dice = np.random.default_rng(0).normal(0.9, 0.02, len(cases))
        lost = np.array([LOSS[site] for site in SITES])
        scores = {
            Role.TEACHER: scored(patients, dice=dice, auroc=lambda i: float(dice[i].mean())),
            Role.STUDENT: scored(
                patients, dice=dice - lost, auroc=lambda i: float((dice - lost)[i].mean())
            ),
        }
        return config.model_copy(update={"evaluate": evaluated}), cases, scores

    return make


def test_each_group_is_the_bootstrap_of_its_own_cases(study):
    config, cases, scores = study("site")
    found = {group.group: group for group in subgroups(scores, cases, config)}
    assert list(found) == ["north", "south", "west", "unknown"]
    south = slice(24, 48)
    patients = [case.patient for case in cases[south]]
    options = {"draws": config.evaluate.bootstrap, "seed": config.study.seed}
    student, teacher = (scores[role].values["dice"][south] for role in (Role.STUDENT, Role.TEACHER))
    assert found["south"].by_role[Role.STUDENT] == bootstrap_mean(student, patients, **options)
    expected = bootstrap_difference(student, teacher, patients, **options)
    assert found["south"].difference == expected
    assert found["south"].difference.value == pytest.approx(-0.1)
    assert found["north"].difference.value == pytest.approx(-0.02)


def test_of_few_patients_nothing_is_estimated(study):
    config, cases, scores = study("site")
    *_, west, unknown = subgroups(scores, cases, config)
    assert (west.patients, west.by_role, west.difference) == (3, {}, None)
    assert unknown.patients == 1


def test_figures_that_are_no_means_are_taken_of_the_groups_cases(study):
    config, cases, scores = study("site", task="classification")
    north, south, *_ = subgroups(scores, cases, config)
    assert (north.figure, south.figure) == ("auroc", "auroc")
    expected = scores[Role.STUDENT].values["dice"][24:48].mean()
    assert south.by_role[Role.STUDENT].value == pytest.approx(expected)
    assert south.difference.value == pytest.approx(-0.1)


def test_bands_come_in_order_and_hold_everybody(study):
    config, cases, scores = study({"attribute": "age", "edges": [10, 30]})
    found = subgroups(scores, cases, config)
    assert [group.group for group in found] == ["below 10", "10 to 30", "30 and more"]
    assert [group.cases for group in found] == [10, 20, 22]


def test_a_structures_volume_groups_by_the_reference(study, tmp_path):
    label = np.zeros((20, 20, 20), np.uint8)
    label[:10, :10, :10] = 2  # the core: 1000 voxels of 2 mm³
    for name in ("i.nii.gz", "l.nii.gz"):
        nifti.write(tmp_path / name, label, affine=np.diag([1.0, 1.0, 2.0, 1.0]))
    named = {"attribute": "volume_ml/core", "edges": [1.9, 2.1]}
    config, cases, scores = study(named, label=tmp_path / "l.nii.gz")
    (group,) = subgroups(scores, cases, config)
    assert (group.group, group.cases) == ("1.9 to 2.1", len(cases))


def test_a_structure_that_is_not_there_is_refused(tmp_path):
    values = tiny_values(tmp_path, dims=3, task="segmentation")
    values["evaluate"]["subgroups"] = [{"attribute": "volume_ml/liver", "edges": [1]}]
    with pytest.raises(ValueError, match="no structure 'liver'; known: ball, core"):
        Config.model_validate(values)
