from pathlib import Path

import pytest
import yaml

from medkd.data.cards import Head, check_template, read_card
from medkd.errors import DataError
from medkd.types import Task

CARDS = Path(__file__).parents[2] / "data_cards"
TEMPLATE = CARDS / "TEMPLATE.md"
FILLED = sorted(path for path in CARDS.glob("*.md") if path != TEMPLATE)


@pytest.fixture
def write(tmp_path):
    def write(prose="Mind the gap.\n", **changes):
        head = dict.fromkeys(Head.model_fields, "words")
        head |= {"task": "segmentation", "known_biases": ["one site"], "cases": 3, "patients": None}
        head["statistics"] = None
        head = {k: v for k, v in (head | changes).items() if v != "absent"}
        path = tmp_path / "card.md"
        path.write_text(f"---\n{yaml.safe_dump(head)}---\n{prose}")
        return path

    return write


@pytest.mark.parametrize("path", FILLED, ids=lambda path: path.stem)
def test_every_card_of_the_repository_is_complete(path):
    card = read_card(path)
    assert len(card.prose) > 400
    assert card.citation


def test_there_is_a_card_for_every_data_set():
    assert {"phantom", "hippocampus", "nuclei", "pneumonia"} <= {path.stem for path in FILLED}


def test_template_names_every_field_and_is_not_a_card():
    check_template(TEMPLATE)
    with pytest.raises(DataError, match=r"TEMPLATE\.md: licence: still the template's text"):
        read_card(TEMPLATE)


def test_template_with_other_fields_is_refused(write):
    with pytest.raises(DataError, match=r"consent: missing\n.*colour: no field"):
        check_template(write(consent="absent", colour="red"))


def test_card_is_read(write):
    card = read_card(write(consent="unknown: the archive burnt", patients=2))
    assert (card.task, card.cases, card.patients) == (Task.SEGMENTATION, 3, 2)
    assert card.prose == "Mind the gap."
    assert card.unknowns == ("consent",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"licence": "absent"}, "licence: missing"),
        ({"license": "MIT"}, "license: no field of a card; did you mean 'licence'"),
        ({"consent": " "}, "consent: String should have at least 1 character"),
        ({"consent": None}, "consent: Input should be a valid string"),
        ({"consent": "unknown"}, "consent: write `unknown: <reason>`"),
        ({"consent": "unknown: "}, "consent: write `unknown: <reason>`"),
        ({"consent": "<ask the centre>"}, "consent: still the template's text"),
        ({"licence": "unknown: nobody said"}, "licence: must be known"),
        ({"known_biases": []}, "known_biases: Tuple should have at least 1 item"),
        ({"known_biases": ["one site", ""]}, "known_biases: String should have"),
        ({"task": "detection"}, "task: Input should be 'segmentation' or 'classification'"),
        ({"cases": 0}, "cases: Input should be greater than or equal to 1"),
        ({"prose": "\n"}, "prose: String should have at least 1 character"),
    ],
)
def test_fields_that_do_not_fit_are_named(write, changes, message):
    with pytest.raises(DataError, match=rf"card\.md: {message}"):
        read_card(write(**changes))


def test_all_problems_come_in_one_pass(write):
    with pytest.raises(DataError, match=r"2 problems(?s:.)*licence(?s:.)*cases"):
        read_card(write(licence="", cases=-1))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "begins with a YAML head"),
        (b"# Title\n", "begins with a YAML head"),
        (b"---\nname: x\n", "begins with a YAML head"),
        (b"---\n- x\n---\ntext", "begins with a YAML head"),
        (b"---\nconsent: unknown: why\n---\ntext", "not valid YAML"),
        (b"---\nname: \xff\n---\n", "cannot be read"),
    ],
)
def test_files_that_are_no_card_are_refused(tmp_path, content, message):
    path = tmp_path / "card.md"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_card(path)


def test_missing_card_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.md: cannot be read"):
        read_card(tmp_path / "none.md")
