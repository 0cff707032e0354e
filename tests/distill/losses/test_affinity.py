import math

import numpy as np
import pytest
import torch

from medkd.distill.losses.affinity import affinity, pooled_grid


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("space", [(5, 4), (2, 3, 4)])
def test_equals_the_textbook_formula_where_nothing_is_pooled(space):
    student, teacher = drawn(2, 3, *space), drawn(2, 7, *space, seed=1)

    def cosines(features):
        flat = features.double().numpy().reshape(*features.shape[:2], -1)
        flat = flat / np.linalg.norm(flat, axis=1, keepdims=True)
        return np.einsum("bci,bcj->bij", flat, flat)

    textbook = ((cosines(student) - cosines(teacher)) ** 2).mean()
    assert affinity(student, teacher)["affinity"].item() == pytest.approx(textbook, rel=1e-4)


@pytest.mark.parametrize("shape", [[48, 64, 48], [200, 200, 3], [512, 512], [7], [1, 1, 9000]])
def test_the_grid_is_bounded_whatever_the_shape(shape):
    grid = pooled_grid(shape, 1728)
    assert math.prod(grid) <= 1728
    assert all(1 <= g <= n for g, n in zip(grid, shape, strict=True))


def test_features_of_other_grids_and_widths_meet_on_the_coarser_one():
    loss = affinity(drawn(1, 4, 8, 8, 8), drawn(1, 16, 4, 4, 4, seed=1))["affinity"]
    assert loss > 0
    assert affinity(drawn(1, 4, 8, 8), drawn(1, 4, 8, 8))["affinity"] < 1e-9


def test_a_place_without_features_has_no_gradient():
    student = drawn(1, 4, 6, 6)
    student[:, :, 2, 3] = 0
    student.requires_grad_()
    affinity(student, drawn(1, 4, 6, 6, seed=1))["affinity"].backward()
    assert not student.grad[:, :, 2, 3].any()
    assert student.grad.abs().max() < 1
    assert student.grad.any(dim=1).sum() == 35


def test_the_size_of_the_weights_is_nothing():
    maps, weights = (drawn(1, 4, 6, 6), drawn(1, 4, 6, 6, seed=1)), torch.rand(1, 6, 6)
    whole = affinity(*maps, weights)["affinity"]
    torch.testing.assert_close(affinity(*maps, 1e-9 * weights)["affinity"], whole)
