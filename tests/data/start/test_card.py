import pytest

from medkd.config import load
from medkd.data.cards import read_card
from medkd.data.quality.survey import survey
from medkd.data.start.init import init
from medkd.study import Study


def test_what_people_know_is_marked_and_what_the_data_tell_is_filled_in(lay_out, tmp_path):
    made = init(lay_out("Decathlon", tmp_path / "data"), tmp_path / "s")
    card = read_card(tmp_path / "s/card.md")
    assert (card.name, card.modality, card.licence) == ("Balls", "MRI", "CC0")
    assert (card.cases, card.patients) == (12, 6)
    assert {"consent", "intended_use", "reference_standard", "prose"} <= set(card.todos)
    warnings = [
        finding.message
        for finding in survey(Study(load(made.config), config_path=made.config)).findings
    ]
    assert any("the data card does not say yet" in message for message in warnings)


@pytest.mark.parametrize("layout", ["MedMNIST", "images and masks"])
def test_a_card_names_no_number_of_patients_that_nobody_tells(lay_out, tmp_path, layout):
    made = init(lay_out(layout, tmp_path / "data"), tmp_path / "s")
    assert made.patients.how.startswith("TODO")
    assert read_card(tmp_path / "s/card.md").patients is None
    assert "patients, " not in made.summary


def test_a_card_says_todo_where_the_data_set_says_unknown(lay_out, tmp_path):
    init(lay_out("an unknown licence", tmp_path / "data"), tmp_path / "s")
    assert read_card(tmp_path / "s/card.md").licence == "TODO"
