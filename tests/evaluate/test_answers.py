import numpy as np
import pytest

from medkd.evaluate.answers import answers_of, answers_of_checkpoint
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
