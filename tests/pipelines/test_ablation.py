import importlib.util
import re
import shutil
from pathlib import Path

import pytest
import typer
import yaml

from medkd.config import load
from medkd.errors import ConfigError, StudyError
from medkd.track.tracker import NullTracker
from medkd.train import run
from medkd.train.run import train_teacher

PIPELINES = Path(__file__).parents[2] / "pipelines"
SPLIT = "data.split={validation: 0.2, test: 0.4}"  # two test patients, so that there are intervals
PLANS = sorted(PIPELINES.glob("ablation_*.yaml"))


@pytest.fixture(scope="module")
def ablation():
    spec = importlib.util.spec_from_file_location("ablation", PIPELINES / "ablation.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", PLANS, ids=lambda path: path.stem)
def test_every_variant_of_a_plan_is_a_config(ablation, path):
    plan = ablation.Plan.read(path)
    assert f"python pipelines/ablation.py pipelines/{path.name}" in path.read_text()
    for table in plan.tables.values():
        first, *_ = (variant for variant in table.values() if not variant.get("itself"))
        assert first.get("alone")
        for variant in table.values():
            config = load(plan.base, overrides=plan.overrides(variant, 0))
            assert bool(config.teacher.external) == ("teacher" in variant)


@pytest.mark.slow
def test_variants_are_scored_on_the_same_cases_and_trained_once(
    ablation, make_config, make_study, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr("medkd.train.admit.LEAST_AGREEMENT", 0)  # six steps teach little
    monkeypatch.setattr("medkd.train.admit.CLEARLY", 1)
    study, cohort = make_study(SPLIT, dims=2)
    train_teacher(study, cohort, tracker=NullTracker())
    plan = {
        "name": "plan",
        "base": str(make_config(dims=2)),
        "set": [SPLIT, f"study.root={tmp_path}/runs"],
        "teachers": {"whole": str(study.path("teacher/fold-0"))},
        "tables": {
            "losses": {
                "teacher": {"teacher": "whole", "itself": True},
                "alone": {"alone": True},
                "kd": {"teacher": "whole"},
            },
            "again": {"the same": {"alone": True}},
        },
    }
    path, record = tmp_path / "plan.yaml", tmp_path / "record.jsonl"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    ablation.main(path, seeds=2, record=record)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = [row.split(" | ")[0].strip("| ") for row in rows]
    assert names == ["losses", "teacher", "alone", "kd", "again", "the same"]
    assert re.search(r"[+-]0\.\d{4} \([+-]\d\.\d{4}, [+-]\d\.\d{4}\)", rows[3])
    assert rows[2].split(" | ")[1:] == rows[5].split(" | ")[1:]
    folders = list((tmp_path / "runs").iterdir())
    assert len([folder for folder in folders if folder.suffix != ".zarr"]) == 5
    monkeypatch.setattr(run, "fit", pytest.fail)
    monkeypatch.setattr(ablation, "score", pytest.fail)
    for kept in (None, record):  # from the folders, and from the record alone
        ablation.main(path, seeds=2, record=kept)
        again = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
        assert again == rows
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow
def test_scores_of_what_was_trained_from_something_else_are_not_taken(
    ablation, make_config, tmp_path
):
    base = make_config(dims=2)
    plan = ablation.Plan("plan", base, [SPLIT, f"study.root={tmp_path}/runs"], {}, {})
    ablation.measure(plan, {"alone": True}, 0)
    values = yaml.safe_load(base.read_text())
    values["student"]["train"]["learning_rate"] = 0.123
    base.write_text(yaml.safe_dump(values, sort_keys=False))
    with pytest.raises(StudyError, match="made before train changed"):
        ablation.measure(plan, {"alone": True}, 0)
    (folder,) = (tmp_path / "runs").iterdir()
    shutil.rmtree(folder / "baseline")
    with pytest.raises(StudyError, match="ablation: made before trained changed"):
        ablation.measure(plan, {"alone": True}, 0)


def test_a_table_that_a_plan_lacks_is_refused_with_those_it_has(ablation):
    with pytest.raises(typer.BadParameter, match="no table 'al labels'; there are all labels, "):
        ablation.main(PLANS[0], only="al labels")


def test_a_student_that_would_be_sized_anew_each_time_is_refused(ablation, make_config):
    with pytest.raises(ConfigError, match=r"student\.budget: each student .* leave the budget out"):
        ablation.prepare(make_config(), ["student.budget={latency_ms: 40}"])
