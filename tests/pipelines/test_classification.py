import json

import pytest
import yaml

from tests.conftest import tiny_values, write_cases
from tests.pipelines import test_segmentation as segmentation


@pytest.mark.slow
def test_a_classification_study_ends_with_releases_and_a_report(tmp_path, monkeypatch):
    recipe = segmentation.ROOT / "pipelines" / "classification.py"
    monkeypatch.setattr(segmentation, "COMMAND", [segmentation.sys.executable, str(recipe)])
    (tmp_path / "data").mkdir()
    write_cases(tmp_path / "data", dims=2, task="classification")
    config = tmp_path / "tiny.yaml"
    values = tiny_values(tmp_path, dims=2, task="classification") | {"gates": []}
    config.write_text(yaml.safe_dump(values))
    done = segmentation.run(config, tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "runs/tiny/report.json").read_text())
    assert set(report["roles"]) == {"teacher", "baseline", "student"}
    assert {"auroc", "balanced_accuracy", "sensitivity", "ece"} <= set(
        report["roles"]["student"]["headline"]
    )
    assert report["verdict"] == "INCOMPLETE", "a config without gates proves nothing"


def test_a_config_for_the_other_task_is_sent_to_the_other_recipe(tmp_path):
    (tmp_path / "data").mkdir()
    write_cases(tmp_path / "data", dims=2, task="classification")
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(tiny_values(tmp_path, dims=2, task="classification")))
    done = segmentation.run(config, tmp_path)
    assert done.returncode == 2
    assert "pipelines/classification.py" in done.stderr
