import json
from pathlib import Path

import mlcroissant
import pytest

from medkd.config import load
from medkd.data.cards import read_card
from medkd.data.croissant import croissant, croissant_path, update_card
from medkd.data.quality.survey import survey
from medkd.study import Study
from tests.test_configs import CONFIGS

pytestmark = pytest.mark.filterwarnings("ignore:ConjunctiveGraph")  # rdflib, of itself
CARDS = Path(__file__).parents[2] / "data_cards"


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.stem)
def test_every_shipped_card_has_a_croissant_that_mlcroissant_accepts(config):
    card = config.parent / load(config).card
    described = mlcroissant.Dataset(str(croissant_path(card)))
    assert not described.metadata.issues.errors
    assert described.metadata.name == read_card(card).name


def test_a_card_is_filled_in_and_its_croissant_written_beside_it(make_config):
    path = make_config()
    card = path.parent / "card.md"
    text = (CARDS / "phantom.md").read_text().replace("cases: 48", "cases: 1")
    card.write_text(text)
    study = Study(load(path, overrides=["card=card.md"]), config_path=path)
    assert update_card(study, survey(study)) == card
    filled = read_card(card)
    assert (filled.cases, filled.patients) == (10, 5)
    assert filled.statistics.holding == {"ball": 10, "core": 10}
    assert filled.prose == read_card(CARDS / "phantom.md").prose
    written = json.loads(croissant_path(card).read_text())
    assert written == json.loads(json.dumps(croissant(filled, study)))
    assert not [f for f in survey(study).findings if "card" in f.line]
    assert "p0" not in croissant_path(card).read_text().replace("sha256", "").split()


@pytest.mark.parametrize("table", [None, "people.csv"])
def test_the_croissant_of_a_filled_card_is_one_that_mlcroissant_accepts(make_config, table):
    path = make_config()
    (path.parent / "card.md").write_text((CARDS / "phantom.md").read_text())
    people = ["case,site", *(f"c{number},north" for number in range(10))]
    (path.parent / "people.csv").write_text("\n".join(people))
    overrides = ["card=card.md"] + ([f"data.table={table}"] if table else [])
    study = Study(load(path, overrides=overrides), config_path=path)
    described = mlcroissant.Dataset(str(croissant_path(update_card(study, survey(study)))))
    assert not described.metadata.issues.errors
    found = {records.name: len(records.fields) for records in described.metadata.record_sets}
    assert found == ({"cases": 5, "table": 2} if table else {"cases": 5})


def test_names_with_spaces_are_kept_and_identifiers_have_none(make_config):
    path = make_config()
    (path.parent / "card.md").write_text((CARDS / "phantom.md").read_text())
    people = ["case,age (years),age/years", *(f"c{number},7,7" for number in range(10))]
    (path.parent / "who is who.csv").write_text("\n".join(people))
    overrides = ["card=card.md", "data.table=who is who.csv"]
    study = Study(load(path, overrides=overrides), config_path=path)
    described = mlcroissant.Dataset(str(croissant_path(update_card(study, survey(study)))))
    assert not described.metadata.issues.errors
    fields = described.metadata.record_sets[1].fields
    assert [field.name for field in fields] == ["case", "age (years)", "age/years"]
    ids = [field.id for field in fields] + [each.id for each in described.metadata.distribution]
    assert len(set(ids)) == len(ids) == 5
    assert not any(" " in each for each in ids)
