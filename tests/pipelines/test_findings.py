"""A whole study of images that have several findings, or none, from a table to releases."""

import csv
import json

import numpy as np
import pytest
import yaml

from medkd.data import images
from medkd.data.reader import read_image
from medkd.device import load
from medkd.device.answer import answer
from medkd.device.manifest import read_manifest
from medkd.results import Report
from medkd.types import Activation
from tests.conftest import tiny_values, write_table
from tests.pipelines import test_segmentation as segmentation

EDGE = 16
FINDINGS = {"bright": 1, "striped": 2}
PARTS = ["train"] * 24 + ["validation"] * 12 + ["test"] * 12
TRAIN = {"steps": 150, "batch": 8, "validate_every": 50, "warmup_steps": 5, "learning_rate": 0.01}


def picture(found, *, seed):
    """Return a picture of noise: brighter, with stripes across it, both or neither."""
    rng = np.random.default_rng(seed)
    image = 100 + 10 * rng.normal(size=(EDGE, EDGE))
    image[4:12, 4:12] += 80 * ("bright" in found)
    image[12:] += 60 * ("striped" in found) * (-1) ** np.arange(EDGE)
    return image.clip(0, 255).astype(np.uint8)


def write_cases(folder):
    """Write images with each combination of findings; one is unlabelled, some are partly judged."""
    rows = []
    for number, part in enumerate(PARTS):
        found = [name for name, value in FINDINGS.items() if number & value]
        images.write(folder / f"c{number}.png", picture(found, seed=number))
        row = {"image": f"c{number}.png", "label": "|".join(found) or "none", "judged": ""}
        site = "north" if number % 8 < 4 else "south"
        rows.append(row | {"patient": f"p{number}", "part": part, "site": site})
    rows[0] |= {"label": ""}
    for number in (3, 5, 27, 39):
        named = [name for name in rows[number]["label"].split("|") if name == "bright"]
        rows[number] |= {"label": "|".join(named) or "none", "judged": "bright"}
    write_table(folder / "cases.csv", rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a study that the recipe has run."""
    root = tmp_path_factory.mktemp("findings")
    (root / "data").mkdir()
    write_cases(root / "data")
    values = tiny_values(root, dims=2, task="classification")
    values["data"] |= {"labels": FINDINGS, "overlapping": True, "annotated": "judged"}
    values["preprocess"]["intensity"] = "unit"
    values["augment"] = {"noise_std": 0.02}
    values["teacher"]["folds"] = 2
    for role in ("teacher", "student"):
        values[role]["train"] = values[role]["train"] | TRAIN
    values["student"]["train"] |= {"class_weights": {"striped": 2}}
    values["student"]["temperature"] = "by_class"
    values["export"] = {"variants": ["onnx", "openvino", "int8", "bundle"]}
    values["evaluate"] |= {"stress_cases": 2, "promised": 0.6, "subgroups": ["site"]}
    values["evaluate"] |= {"least_in_group": 1}
    values["gates"] = [{"figure": "auroc", "each": True, "minus": "teacher", "at_least": -0.9}]
    (root / "tiny.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    recipe = segmentation.ROOT / "pipelines" / "classification.py"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segmentation, "COMMAND", [segmentation.sys.executable, str(recipe)])
        done = segmentation.run(root / "tiny.yaml", root)
    assert done.returncode in (0, 2), done.stderr
    return root / "runs/tiny"


@pytest.mark.slow
def test_each_finding_is_scored_by_itself_where_it_was_judged(finished):
    report = Report.model_validate_json((finished / "report.json").read_text())
    assert report.has_findings
    for result in report.roles.values():
        assert result.headline["auroc"].value > 0.8
        measured = {name.partition("/")[0] for name in result.per_class}
        assert measured == {"auroc", "average_precision", "sensitivity", "specificity", "ece"}
        assert result.per_class["auroc/bright"].cases == 12
        assert result.per_class["auroc/striped"].cases == 11
        assert result.failures.keys() == {"misses", "false_alarms", "failures"}
    assert [promise.of for promise in report.promises["student"]] == list(FINDINGS)
    assert {gate.gate.split()[1] for gate in report.gates} == {"auroc/bright", "auroc/striped"}
    assert any("An image may have several findings" in note for note in report.notes)
    assert all(group.by_role for group in report.subgroups)
    assert any("Labels that tell of some findings alone: 2 of train" in n for n in report.notes)
    page = (finished / "report.html").read_text()
    assert "Missed findings" in page
    assert "multi-label" in (finished / "model_card.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["", "-openvino", "-int8"])
def test_every_release_answers_with_probabilities_of_their_own(finished, variant):
    release = finished / f"releases/student{variant}"
    manifest = read_manifest(release)
    assert (manifest.activation, manifest.classes) == (Activation.SIGMOID, tuple(FINDINGS))
    assert len(manifest.temperature) == 2
    assert manifest.operating_points.keys() == manifest.conformal.thresholds.keys() == set(FINDINGS)
    predictor, right, sums = load(release), [], []
    for number in range(36, 48):
        said = predictor.answer(read_image(finished.parents[1] / f"data/c{number}.png"))
        sums.append(said.probabilities.sum())
        right += [(name in said.confidence) == bool(number & v) for name, v in FINDINGS.items()]
    assert np.mean(right) > 0.8
    assert max(sums) - min(sums) > 0.5


@pytest.mark.slow
def test_a_table_names_what_was_found(finished, tmp_path):
    pictures = finished.parents[1] / "data"
    sources = [pictures / f"c{number}.png" for number in (44, 45, 46, 47)]
    answer(finished / "releases/student", sources, tmp_path / "answers.csv")
    with (tmp_path / "answers.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    known = {"none", "bright", "striped", "bright|striped"}
    assert {row["prediction"] for row in rows} <= known
    assert len({row["prediction"] for row in rows}) > 2
    parity = json.loads((finished / "releases/student-int8/parity.json").read_text())
    assert parity["parity"]["openvino"]["agreement"] > 0.9
