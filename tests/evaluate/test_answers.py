import numpy as np
import pytest

from medkd.config import load
from medkd.evaluate.answers import answers_of, answers_of_checkpoint
from medkd.study import Study
from medkd.types import Role


@pytest.mark.parametrize(
    ("role", "stage"), [(Role.TEACHER, "teacher/fold-0"), (Role.STUDENT, "student")]
)
def test_a_checkpoint_answers_in_process_as_its_release_does(released, role, stage):
    study, cohort = released
    by_release, by_checkpoint = answers_of(study, role), answers_of_checkpoint(study, stage)
    for case in cohort.of(cohort.split.test):
        one, other = by_release(case), by_checkpoint(case)
        assert one.mask.shape == one.probabilities.shape[1:]
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-3)
        assert (one.mask == other.mask).mean() > 0.99


def test_a_checkpoint_looks_once_whatever_the_views_of_the_teacher(released):
    study, cohort = released
    flipping = load(study.folder / "config.yaml", overrides=["teacher.flip_axes=[0, 1]"])
    other = Study(flipping, study.config_path)
    (case, *_) = cohort.of(cohort.split.test)
    once, flipped = (answers_of_checkpoint(each, "student")(case) for each in (study, other))
    np.testing.assert_array_equal(once.probabilities, flipped.probabilities)
