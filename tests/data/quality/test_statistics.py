import re

import pytest

from medkd.config import load
from medkd.data.quality.statistics import statistics
from medkd.data.quality.survey import survey
from medkd.study import Study
from tests.test_configs import CONFIGS


def test_statistics_are_those_of_the_cases(cohort, config):
    changes = {0: {"shape": (10, 50, 30), "voxels": {0: 990, 1: 200}}}
    cases, examined = cohort(3, changes=changes)
    found = statistics(cases, examined, config)
    assert found.shape == ((10, 50, 30), (40, 50, 30), (40, 50, 30))
    assert found.holding == {"organ": 3, "lesion": 2}
    assert found.volume_ml == {"organ": 0.2, "lesion": 0.12}
    assert found.orientations == {"RAS": 3}


def test_the_digest_is_of_the_content_and_not_of_its_order(cohort, config):
    cases, examined = cohort(3)
    one = statistics(cases, examined, config).digest
    turned = dict(reversed(examined.items()))
    assert statistics(cases, turned, config).digest == one
    other = cohort(3, changes={1: {"answer": "another label"}})[1]
    assert statistics(cases, other, config).digest != one


def found_of(path, tmp_path, *overrides):
    config = load(path, overrides=[f"study.root={tmp_path}", *overrides])
    return [f.message for f in survey(Study(config, config_path=path)).findings if "card" in f.line]


LARGE = {"pneumonia"}  # reading its 5,856 images takes a minute
SHIPPED = [
    pytest.param(path, id=path.stem, marks=[pytest.mark.slow] * (path.stem in LARGE))
    for path in CONFIGS
]


@pytest.mark.data
@pytest.mark.parametrize("path", SHIPPED)
def test_every_shipped_card_says_what_its_data_show(path, tmp_path, data_root):
    assert found_of(path, tmp_path) == []


@pytest.mark.data
def test_a_card_of_other_data_is_named(tmp_path, data_root):
    path = next(path for path in CONFIGS if path.stem == "hippocampus")
    card = tmp_path / "card.md"
    text = (path.parent.parent / "data_cards/hippocampus.md").read_text()
    card.write_text(text.replace("cases: 208", "cases: 209"))
    card.write_text(re.sub(r"digest: \w+", "digest: none", card.read_text()))
    (message,) = found_of(path, tmp_path, f"card={card}")
    assert "cases 209, here 208" in message
    assert "digest none, here" in message
