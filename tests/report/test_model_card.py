import math

import pytest
import yaml

from medkd.report.model_card import LICENCES, front_matter, model_card
from medkd.results import Interval
from medkd.statement import PEOPLE, QUESTIONS
from medkd.types import Role
from tests.report.test_build import EVIL


def head_of(card):
    assert card.startswith("---\n")
    return yaml.safe_load(card.split("---\n")[1])


@pytest.mark.parametrize("report", ["segmentation", "classification"], indirect=True)
def test_the_head_is_what_hugging_face_asks_for(report):
    """The fields and their types, as the Hub's metadata of model cards has them."""
    head = head_of(model_card(report))
    assert head["license"] in LICENCES | {"other", "unknown"}
    assert head["pipeline_tag"] in {"image-segmentation", "image-classification"}
    assert isinstance(head["library_name"], str)
    assert all(isinstance(tag, str) for tag in (*head["tags"], *head["metrics"]))
    (model,) = head["model-index"]
    (result,) = model["results"]
    assert model["name"] == report.study
    assert result["task"]["type"] == head["pipeline_tag"]
    assert result["dataset"].keys() >= {"type", "name"}
    for metric in result["metrics"]:
        assert metric.keys() >= {"type", "value"}
        figure = report.roles[Role.STUDENT].headline[metric["type"]]
        assert metric["value"] == figure.value


def test_the_hub_reads_it(segmentation):
    hub = pytest.importorskip("huggingface_hub", reason="not needed to write a card")
    data = hub.ModelCard(model_card(segmentation)).data
    assert data.model_name == segmentation.study
    assert len(data.eval_results) == len(segmentation.roles[Role.STUDENT].headline)


def test_an_undefined_figure_is_left_out(segmentation):
    student = segmentation.roles[Role.STUDENT]
    bare = {"dice": Interval(value=math.nan, cases=0, patients=0)}
    roles = {Role.STUDENT: student.model_copy(update={"headline": bare})}
    head = front_matter(segmentation.model_copy(update={"roles": roles}))
    assert head["model-index"][0]["results"] == []


@pytest.mark.parametrize(
    ("said", "head"),
    [
        ("Apache-2.0", {"license": "apache-2.0"}),
        ("", {"license": "unknown"}),
        (
            "Our Own 1.0",
            {"license": "other", "license_name": "our-own-1.0", "license_link": "LICENSE"},
        ),
    ],
)
def test_a_licence_the_hub_does_not_know_is_other(said, head, segmentation):
    found = front_matter(segmentation.model_copy(update={"statement": {"licence": said}}))
    assert {key: value for key, value in found.items() if key.startswith("license")} == head


def test_what_nobody_said_stands_out_and_names_of_people_stay_away(segmentation):
    assert "**not filled in**" in model_card(segmentation)
    said = dict.fromkeys(QUESTIONS, "an answer") | dict.fromkeys(PEOPLE, "Jane Roe")
    card = model_card(segmentation.model_copy(update={"statement": said}))
    assert "not filled in" not in card
    assert "Jane Roe" not in card


def test_hostile_words_are_inert(segmentation):
    evil = EVIL + "\n---\nlicense: mit\n---\n[x](javascript:alert(1)) `code`"
    said = dict.fromkeys(QUESTIONS, evil)
    update = {"study": evil, "reasons": (evil,), "digests": {evil: evil}, "statement": said}
    card = model_card(segmentation.model_copy(update=update | {"card": {"name": evil}}))
    prose = card.split("---\n\n", 1)[1]
    assert head_of(card)["model-index"][0]["name"] == " ".join(evil.split())
    assert card.count("\n---\n") == 1
    assert "<script" not in prose.replace("\\<", "")
    assert "](javascript" not in prose.replace("\\]", "")
    assert "\n---\n" not in prose


def test_several_findings_at_once_are_a_tag_of_the_hub(findings, classification):
    assert front_matter(findings)["tags"][-2:] == ["classification", "multi-label"]
    assert front_matter(classification)["tags"][-1] == "classification"
    assert front_matter(findings)["pipeline_tag"] == "image-classification"
