import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from medkd.config import load
from medkd.track.tracker import NullTracker
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
    plan = yaml.safe_load(path.read_text())
    assert f"python pipelines/ablation.py pipelines/{path.name}" in path.read_text()
    for table in plan["tables"].values():
        first, *others = table.values()
        assert first.get("alone")
        for variant in (first, *others):
            config = load(
                path.parent / plan["base"], overrides=ablation.overrides_of(plan, variant)
            )
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
            "losses": {"alone": {"alone": True}, "kd": {"teacher": "whole"}},
            "again": {"the same": {"alone": True}},
        },
    }
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False))
    ablation.main(path, seeds=2)
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    names = [row.split(" | ")[0].strip("| ") for row in rows]
    assert names == ["losses", "alone", "kd", "again", "the same"]
    assert re.search(r"[+-]0\.\d{4} \([+-]\d\.\d{4}, [+-]\d\.\d{4}\)", rows[2])
    assert rows[1].split(" | ")[1:] == rows[4].split(" | ")[1:]
    assert len(list((tmp_path / "runs").iterdir())) == 4
    monkeypatch.setattr(ablation, "train_baseline", pytest.fail)
    monkeypatch.setattr(ablation, "distill", pytest.fail)
    ablation.main(path, seeds=2)
    again = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert again == rows
