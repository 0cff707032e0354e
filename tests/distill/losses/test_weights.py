import math

import pytest
import torch

from medkd.distill.losses.weights import (
    boundaries,
    certainty,
    class_shares,
    voxel_weights,
)


@pytest.fixture
def halves():
    """A teacher that is sure of class 0 on the left and of class 1 on the right."""
    teacher = torch.full((1, 3, 4, 6), 0.01)
    teacher[:, 0, :, :3] = teacher[:, 1, :, 3:] = 0.98
    return teacher


def test_boundaries_are_the_voxels_on_either_side(halves):
    assert boundaries(halves).tolist() == [[[0, 0, 1, 1, 0, 0]] * 4]
    assert boundaries(halves[..., None].expand(-1, -1, -1, -1, 3)).sum() == 2 * 4 * 3
    assert not boundaries(halves[:, :, 0, 0]).any(), "an image as a whole has no boundary"


def test_certainty_is_one_minus_the_normalised_entropy():
    teacher = torch.tensor([[1.0, 0, 0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0]])
    expected = torch.tensor([1, 0, 1 - math.log(2) / math.log(3)])
    torch.testing.assert_close(certainty(teacher), expected, atol=1e-6, rtol=0)


def test_weights_multiply(halves):
    valid = torch.zeros(1, 4, 6, dtype=torch.bool)
    valid[:, :2] = True
    found = voxel_weights(halves, valid, boundary=2, classes=(1, 0, 0))
    row = [0.98, 0.98, 3 * 0.98, 3 * 0.01, 0.01, 0.01]
    torch.testing.assert_close(found, torch.tensor([[row, row, [0.0] * 6, [0.0] * 6]]))


def test_nothing_asked_is_the_mask_itself(halves):
    valid = torch.ones(1, 4, 6, dtype=torch.bool)
    assert voxel_weights(halves, valid) is valid
    assert voxel_weights(halves) is None


def test_a_weight_for_each_class_is_needed(halves):
    with pytest.raises(ValueError, match="2 class weights for 3 classes"):
        voxel_weights(halves, classes=(1, 1))


def test_where_structures_overlap_a_boundary_is_that_of_any():
    inside = torch.full((1, 2, 4, 6), 0.9)
    inside[:, 1, :, 3:] = 0.2
    assert boundaries(inside, sigmoid=True).tolist() == [[[0, 0, 1, 1, 0, 0]] * 4]
    assert not boundaries(inside[:, :1], sigmoid=True).any(), "nothing but the structure"


def test_where_structures_overlap_certainty_is_the_mean_over_them():
    teacher = torch.tensor([[1.0, 0.0], [0.5, 1.0], [0.5, 0.5]])
    expected = torch.tensor([1.0, 0.5, 0.0])
    torch.testing.assert_close(certainty(teacher, sigmoid=True), expected)


def test_shares_of_classes_sum_to_one():
    torch.testing.assert_close(class_shares((1, 3), torch.zeros(1, 2)), torch.tensor([0.25, 0.75]))
    torch.testing.assert_close(class_shares(None, torch.zeros(1, 4)), torch.full((4,), 0.25))


@pytest.mark.parametrize(
    ("weights", "reason"), [((1, 2, 3), "3 class weights for 2 classes"), ((0, 0), "are all 0")]
)
def test_shares_that_cannot_be_are_refused(weights, reason):
    with pytest.raises(ValueError, match=reason):
        class_shares(weights, torch.zeros(1, 2))
