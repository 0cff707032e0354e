import numpy as np
import pytest
from pydantic import ValidationError

from medkd.config import Config
from medkd.evaluate.claims import claims
from medkd.evaluate.compare import judge
from medkd.evaluate.score import Scores
from medkd.options import GateOptions
from medkd.results import Reliability
from medkd.types import Role
from tests.conftest import tiny_values


def scored(values):
    """Return scores of 40 patients that hold these figures and nothing else."""
    return Scores(
        patients=tuple(map(str, range(40))),
        values=values,
        statistics={},
        headline={},
        per_class={},
        cases=(),
        reliability=Reliability(confidence=(), accuracy=(), count=()),
        failures={},
    )


@pytest.fixture
def config(tmp_path):
    values = tiny_values(tmp_path, dims=3, task="segmentation")
    values["data"]["labels"] = {"core": 1, "rim": 2}
    values["evaluate"] = {"least_patients": 30}
    return Config.model_validate(values)


def found(config, *, core, rim, **gate):
    """Return the claim and judgement of a gate on differences drawn around two gains."""
    rng = np.random.default_rng(0)
    base = {name: rng.uniform(0.6, 0.8, 40) for name in ("core", "rim")}
    gains = {name: rng.normal(gain, 0.02, 40) for name, gain in (("core", core), ("rim", rim))}
    minus = scored({f"dice/{n}": base[n] for n in base})
    of = scored({f"dice/{n}": base[n] + gains[n] for n in base})
    asked = GateOptions(figure="dice", minus=Role.BASELINE, any=True, **gate)
    config = config.model_copy(update={"gates": (asked,)})
    scores = {Role.STUDENT: of, Role.BASELINE: minus}
    claimed = claims(scores, config)
    return claimed[str(asked)], judge({}, (), config, claims=claimed)[0]


def test_one_class_is_enough_and_is_named(config):
    claim, result = found(config, core=0.03, rim=0, at_least=0)
    assert claim.p_values["core"] < 0.01 < claim.p_values["rim"]
    assert result.passed
    assert result.gate == "student dice - baseline dice of any class >= 0"
    assert result.reason.startswith("holds for core (Holm: core p = ")
    assert result.judged == claim.p_values["core"]


def test_a_bound_from_above_is_asked_the_other_way_round(config):
    assert found(config, core=-0.03, rim=0.03, at_most=0)[1].reason.startswith("holds for core (")
    assert not found(config, core=0.03, rim=0.03, at_most=0)[1].passed


def test_few_patients_show_nothing(config):
    evaluated = config.evaluate.model_copy(update={"least_patients": 41})
    config = config.model_copy(update={"evaluate": evaluated})
    assert found(config, core=0.03, rim=0.03, at_least=0)[1].passed is None


def test_a_gate_is_of_each_or_of_any():
    with pytest.raises(ValidationError, match="each class or of any, not both"):
        GateOptions(figure="dice", each=True, any=True, at_least=0)
