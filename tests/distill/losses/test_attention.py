import numpy as np
import pytest
import torch

from medkd.distill.losses.attention import attention


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("space", [(5, 4), (3, 4, 5)])
def test_equals_the_textbook_formula(space):
    student, teacher = drawn(2, 3, *space), drawn(2, 7, *space, seed=1)
    q, p = (
        (np.abs(f.double().numpy()) ** 2).mean(axis=1).reshape(2, -1) for f in (student, teacher)
    )
    q, p = (m / np.linalg.norm(m, axis=1, keepdims=True) for m in (q, p))
    textbook = ((q - p) ** 2).sum(axis=1).mean()
    assert attention(student, teacher)["attention"].item() == pytest.approx(textbook, rel=1e-5)


def test_does_not_shrink_with_the_volume():
    student, teacher = drawn(2, 3, 4, 4, 4), drawn(2, 3, 4, 4, 4, seed=1)
    larger = [f.repeat(1, 1, 2, 2, 2) for f in (student, teacher)]
    torch.testing.assert_close(attention(*larger), attention(student, teacher))


def test_is_zero_for_the_same_map_on_any_scale_and_any_grid_of_it():
    features = drawn(2, 3, 4, 4)
    assert attention(5 * features, features)["attention"].abs() < 1e-6
    flat = torch.ones(2, 3, 4, 4)
    assert attention(flat, torch.ones(2, 9, 8, 8))["attention"].abs() < 1e-6


def test_a_power_without_a_gradient_at_0_is_refused():
    with pytest.raises(ValueError, match=r"power must be 1 or more, got 0\.5"):
        attention(drawn(1, 3, 4, 4), drawn(1, 3, 4, 4), power=0.5)


def test_dead_features_have_a_finite_gradient():
    student = torch.zeros(1, 3, 4, 4, requires_grad=True)
    attention(student, drawn(1, 3, 4, 4))["attention"].backward()
    assert student.grad.isfinite().all()
