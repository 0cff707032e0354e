"""Every config that comes with medkd is right, short, and documented by a data card."""

from pathlib import Path

import pytest
import yaml
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from medkd.config import expand, load
from medkd.statement import QUESTIONS, SUFFIX, is_blank, read_statement

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(path for path in FOLDER.glob("*.yaml") if not path.name.endswith(SUFFIX))
STATEMENTS = sorted(FOLDER.glob(f"*{SUFFIX}"))


def budgets(path):
    return list(yaml.safe_load(path.read_text()).get("budgets", ["quick"]))


@pytest.mark.parametrize(
    ("path", "budget"), [(path, budget) for path in CONFIGS for budget in budgets(path)], ids=str
)
def test_loads_with_every_budget(path, budget):
    config = load(path, budget=budget)
    assert config.study.name == path.stem
    assert config.gates


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
class TestConfig:
    def test_is_30_to_60_lines_long(self, path):
        assert 30 <= len(path.read_text().splitlines()) <= 60

    def test_names_a_data_card_that_exists(self, path):
        card = load(path).card
        assert card is not None
        assert expand(card, key="card", root=path.parent).is_file()

    def test_its_codes_are_those_of_dicom(self, path):
        config = load(path)
        told = config.data.codes.values()
        assert config.data.codes.keys() in ({*()}, config.data.labels.keys())
        for code in [*told, *(c.category for c in told), *(c.modifier for c in told if c.modifier)]:
            known = getattr(codes.SCT, "".join(code.meaning.title().split()))
            assert known == Code(code.value, code.scheme, code.meaning)
            assert known.meaning == code.meaning

    def test_says_how_to_run_it(self, path):
        config = load(path)
        assert f"python pipelines/{config.task}.py configs/{path.name}" in path.read_text()


def test_hippocampus_judges_its_teacher_too_and_an_ensemble_by_its_own_ratios():
    path = CONFIGS[0].with_name("hippocampus.yaml")
    quick, full = (load(path, budget=budget).gates for budget in ("quick", "full"))
    assert "teacher dice >= 0.87" in map(str, quick)
    assert [gate.at_most for gate in full if gate.over] == [0.02, 0.05]
    assert [gate for gate in full if not gate.over] == [gate for gate in quick if not gate.over]


@pytest.mark.parametrize("path", STATEMENTS, ids=lambda path: path.stem)
def test_every_statement_belongs_to_a_config_and_is_read(path):
    assert path.with_name(path.name.removesuffix(SUFFIX) + ".yaml") in CONFIGS
    assert read_statement(path)


def test_the_phantoms_leave_no_question_open():
    said = read_statement(FOLDER / f"phantom_3d{SUFFIX}").model_dump()
    assert not [name for name in QUESTIONS if is_blank(said[name])]
    assert "no clinical use" in said["intended_use"]
