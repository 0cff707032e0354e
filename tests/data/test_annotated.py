from dataclasses import replace

import numpy as np
import pytest

from medkd.data.annotated import covered, in_terms_of, merged, merged_log, stands_for
from medkd.types import Case

TOLD = np.array([True, False, True, False])


@pytest.fixture
def probabilities():
    return np.random.default_rng(0).dirichlet(np.ones(4), size=(5, 6)).transpose(2, 0, 1)


def test_a_label_covers_what_the_datalist_says_and_all_where_it_says_nothing(make_study, tmp_path):
    config, case = make_study().config, Case("c", tmp_path, tmp_path, "p")
    assert covered(case, config).tolist() == [True, True, True]
    part = replace(case, annotated=("lesion",))
    assert covered(part, config).tolist() == [True, False, True]


def test_what_is_not_covered_is_added_to_the_background(probabilities):
    found = merged(probabilities, TOLD)
    np.testing.assert_allclose(found[0], probabilities[[0, 1, 3]].sum(axis=0))
    np.testing.assert_array_equal(found[2], probabilities[2])
    assert not found[[1, 3]].any()
    np.testing.assert_allclose(np.exp(merged_log(np.log(probabilities), TOLD)), found)


def test_an_answer_in_the_labels_terms_is_background_where_it_is_not_covered():
    assert in_terms_of(np.array([0, 1, 2, 3], np.uint8), TOLD).tolist() == [0, 0, 2, 0]


def test_the_background_alone_may_stand_for_more():
    expected = np.eye(4, dtype=bool)
    expected[0] = [True, True, False, True]
    np.testing.assert_array_equal(stands_for(TOLD), expected)


def test_a_label_that_covers_all_changes_nothing(probabilities):
    all_of_them = np.ones(4, bool)
    assert merged(probabilities, all_of_them) is probabilities
    assert merged_log(probabilities, all_of_them) is probabilities
    np.testing.assert_array_equal(stands_for(all_of_them), np.eye(4, dtype=bool))
