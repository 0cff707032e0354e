"""What is read on the console while ``fit`` trains."""

import pytest

from medkd.track.tracker import NullTracker
from medkd.train.loop import Fit, fit
from tests.train.test_loop import OPTIONS, batches, network, step


@pytest.fixture
def said(tmp_path, capsys):
    """Return what is printed by a training whose validations give these figures."""

    def run(figure, *values):
        scores = iter(values)

        def validate(_):
            return {figure: next(scores), "nll": 7.0}

        fit(
            network(),
            OPTIONS,
            Fit("baseline", step, batches, validate, tmp_path, NullTracker(), 5, 2),
        )
        return capsys.readouterr().out.splitlines()

    return run


def test_every_validation_is_a_line_with_name_step_and_figure(said):
    lines = [line for line in said("dice", 0.1, 0.4309, 0.2) if "validation" in line]
    assert lines == [
        "baseline: step 3, validation dice 0.100",
        "baseline: step 6, validation dice 0.431",
        "baseline: step 8, validation dice 0.200",
    ]


def test_a_training_that_learned_nothing_ends_with_a_warning_and_what_to_try(said):
    *_, warning = said("dice", 0.0, 0.009, 0.0)
    assert warning.startswith(
        "warning: baseline: learned nothing, its best validation dice is 0.009"
    )
    assert "labels" in warning
    assert "train.steps" in warning
    assert "train.learning_rate" in warning


@pytest.mark.parametrize("figures", [("dice", 0.0, 0.02, 0.0), ("auroc", 0.0, 0.0, 0.0)])
def test_one_that_learned_a_little_or_is_no_segmentation_ends_without(said, figures):
    assert not any("warning" in line for line in said(*figures))
