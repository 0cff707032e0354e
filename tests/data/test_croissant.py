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
