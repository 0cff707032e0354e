import json
import os
import shutil
from dataclasses import replace

import pytest

from medkd.device.bench import accuracy_of, reports_near
from medkd.device.manifest import MANIFEST
from medkd.errors import StudyError
from medkd.evaluate import run
from medkd.evaluate.run import evaluate
from medkd.export.release import export
from medkd.options import GateOptions
from medkd.results import read_report
from medkd.track.tracker import NullTracker
from medkd.train.run import distill, train_baseline, train_teacher
from medkd.train.soften import soften
from medkd.types import Role


@pytest.fixture(scope="module")
def evaluated(released):
    """A study, its cohort and its report."""
    study, cohort = released
    return study, cohort, evaluate(study, cohort)


def with_gates(study, *gates):
    gates = tuple(GateOptions(**gate) for gate in gates)
    return replace(study, config=study.config.model_copy(update={"gates": gates}))


def test_the_report_on_disk_is_the_one_returned(evaluated):
    study, _, report = evaluated
    assert read_report(study.folder / "report.json") == report


def test_a_new_report_takes_the_place_of_the_old_one_whole(evaluated):
    study, cohort, _ = evaluated
    path = study.folder / "report.json"
    with path.open() as old:
        evaluate(study, cohort)
        assert not os.path.samestat(os.fstat(old.fileno()), path.stat())
        assert json.load(old)["study"] == study.config.study.name


def test_three_roles_are_scored_on_the_same_test_cases(evaluated):
    _, cohort, report = evaluated
    assert set(report.roles) == set(Role)
    assert report.split["test"].cases == len(cohort.split.test)
    cases = [tuple(case.case for case in result.cases) for result in report.roles.values()]
    assert len(set(cases)) == 1
    assert len(cases[0]) == len(cohort.split.test)


def test_a_release_finds_its_figures_by_its_digest_and_a_foreign_one_does_not(evaluated, tmp_path):
    study, _, report = evaluated
    reports = reports_near([study.path("releases/teacher")])
    copied = shutil.copytree(study.path("releases/student"), tmp_path / "elsewhere")
    found = accuracy_of(copied, reports)
    assert found.value == report.roles[Role.STUDENT].headline["dice"].value
    assert found.reference == report.roles[Role.TEACHER].headline["dice"].value
    foreign = shutil.copytree(copied, tmp_path / "releases" / "student")
    (foreign / MANIFEST).write_text((foreign / MANIFEST).read_text() + " ")
    assert accuracy_of(foreign, reports) is None


def test_student_and_baseline_are_the_same_network(evaluated):
    roles = evaluated[2].roles
    assert roles[Role.STUDENT].parameters == roles[Role.BASELINE].parameters
    assert roles[Role.STUDENT].macs == roles[Role.BASELINE].macs


def test_latency_was_measured_beside_what_it_ran_on(evaluated):
    for result in evaluated[2].roles.values():
        assert result.latency.queries == 2
        assert result.latency.threads == 1
        assert result.latency.file_to_file_ms.p50 >= result.latency.network_ms.p50 > 0
        assert result.latency.processor


def test_the_test_images_are_made_worse_for_all_roles_and_shown_to_the_guard(evaluated):
    _, cohort, report = evaluated
    assert {curve.stress for curve in report.stress} >= {"noise", "missing slices"}
    for curve in report.stress:
        assert set(curve.suffered) == set(Role)
        assert len(curve.flagged) == len(curve.strengths)
        for role, untouched in curve.untouched.items():
            assert untouched.value == pytest.approx(report.roles[role].headline["dice"].value)
    assert report.guard.passed.cases == len(cohort.split.test)
    assert report.guard.foreign["noise alone"] == 1


def test_every_role_promises_for_every_structure(evaluated):
    _, cohort, report = evaluated
    for role in Role:
        assert [promise.of for promise in report.promises[role]] == ["ball", "core"]
        for promise in report.promises[role]:
            assert promise.calibrated_on == len(cohort.split.validation)
            assert promise.threshold == 0  # two cases promise nothing


def test_every_overlay_was_drawn(evaluated):
    study, _, report = evaluated
    ranks = [overlay.rank for overlay in report.overlays]
    assert (ranks[0], *ranks[-2:]) == ("worst 1", "median", "best")
    assert all(rank.startswith("failed") for rank in ranks[1:-2])
    assert all((study.folder / overlay.path).is_file() for overlay in report.overlays)
    layers = [path for overlay in report.overlays for path in overlay.layers.paths.values()]
    assert all((study.folder / path).is_file() for path in layers)
    dice = [case.figures["dice"] for case in report.roles[Role.STUDENT].cases]
    assert report.overlays[0].value == min(dice)
    assert report.overlays[-1].value == max(dice)


def test_a_second_look_at_the_report_does_not_open_the_test_split(evaluated, monkeypatch):
    study, cohort, report = evaluated
    monkeypatch.setattr(run, "answers_of", pytest.fail)
    again = evaluate(study, cohort)
    assert again.test_openings == report.test_openings
    assert again.gates == report.gates


def test_gates_that_changed_after_the_split_was_opened_are_refused(evaluated):
    study, cohort, _ = evaluated
    moved = with_gates(study, {"figure": "dice", "at_least": 0.0})
    with pytest.raises(StudyError, match="made before gates changed"):
        evaluate(moved, cohort)


@pytest.mark.parametrize(
    ("section", "option", "named"), [("latency", "queries", "latency"), ("study", "seed", "seed")]
)
def test_a_report_is_refused_where_what_it_was_measured_with_changed(
    evaluated, section, option, named
):
    study, cohort, _ = evaluated
    options = getattr(study.config, section).model_copy(update={option: 7})
    other = replace(study, config=study.config.model_copy(update={section: options}))
    with pytest.raises(StudyError, match=f"made before {named} changed"):
        evaluate(other, cohort)


def test_every_opening_is_counted_even_of_an_evaluation_that_was_killed(
    evaluated, tmp_path, monkeypatch
):
    study, cohort, report = evaluated
    options = study.config.study.model_copy(update={"root": str(tmp_path)})
    copy = replace(study, config=study.config.model_copy(update={"study": options}))
    shutil.copytree(study.folder, copy.folder)
    shutil.rmtree(copy.path("evaluation"))

    def die(*_, **__):
        raise KeyboardInterrupt

    measured = report.roles[Role.STUDENT].latency
    monkeypatch.setattr(
        run, "measure_latencies", lambda folders, *_, **__: dict.fromkeys(folders, measured)
    )
    with monkeypatch.context() as patch:
        patch.setattr(run, "score_segmentation", die)
        with pytest.raises(KeyboardInterrupt):
            evaluate(copy, cohort)
    assert evaluate(copy, cohort).test_openings == report.test_openings + 2


def test_a_release_that_is_missing_is_named(make_study):
    study, cohort = make_study(dims=2)
    with pytest.raises(StudyError, match="teacher: this stage has not been run yet"):
        evaluate(study, cohort)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_a_study_of_images_ends_with_a_report(make_study, task):
    study, cohort = make_study(dims=2, task=task)
    train_teacher(study, cohort, tracker=NullTracker())
    soften(study, cohort)
    train_baseline(study, cohort, tracker=NullTracker())
    distill(study, cohort, tracker=NullTracker())
    for role in Role:
        export(study, cohort, role=role)
    report = evaluate(study, cohort)
    figure = "dice" if task == "segmentation" else "auroc"
    assert 0 <= report.roles[Role.STUDENT].headline[figure].value <= 1
    assert figure in {comparison.figure for comparison in report.comparisons}
    assert len(report.overlays) >= 3
    assert all((study.folder / overlay.path).is_file() for overlay in report.overlays)
    assert read_report(study.folder / "report.json") == report
