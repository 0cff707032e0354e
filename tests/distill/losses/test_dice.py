import numpy as np
import pytest
import torch

from medkd.distill.losses.dice import soft_dice


def drawn(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loss(*args, **options):
    (value,) = soft_dice(*args, **options).values()
    return value


@pytest.mark.parametrize("sigmoid", [False, True])
def test_equals_the_textbook_formula(sigmoid):
    student, teacher = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1)
    q, p = (z.sigmoid() if sigmoid else z.softmax(1) for z in (student, teacher))
    first = 0 if sigmoid else 1
    by_class = [
        np.abs(a - b).sum() / (a + b).sum()
        for a, b in zip(
            np.moveaxis(q.numpy(), 1, 0)[first:], np.moveaxis(p.numpy(), 1, 0)[first:], strict=True
        )
    ]
    found = loss(student, p, sigmoid=sigmoid)
    assert found.item() == pytest.approx(np.mean(by_class), rel=1e-3)


def test_with_hard_labels_it_is_one_minus_dice():
    label, answer = torch.randint(0, 2, (1, 9, 9)), torch.randint(0, 2, (1, 9, 9))
    hard, sure = (torch.stack([1 - x, x], 1).float() for x in (label, answer))
    dice = 2 * (label & answer).sum() / (label.sum() + answer.sum())
    assert loss(80 * sure, hard).item() == pytest.approx(1 - dice.item(), abs=1e-3)


def test_is_smallest_where_the_student_agrees_and_not_where_it_exaggerates():
    teacher = torch.full((1, 2, 4, 4), 0.5)
    teacher[:, 1], teacher[:, 0] = 0.7, 0.3
    at = {
        p: loss(torch.tensor([1 - p, p]).log().reshape(1, 2, 1, 1).expand(1, 2, 4, 4), teacher)
        for p in (0.5, 0.7, 0.9, 0.999)
    }
    assert min(at, key=at.get) == 0.7

    def usual(p):
        return 1 - 2 * 0.7 * p / (0.7 + p)

    assert usual(0.999) < usual(0.7), "the usual soft Dice prefers exaggeration"


def test_obeys_the_triangle_inequality_of_a_semimetric_up_to_a_factor():
    maps = [drawn(1, 3, 5, 5, seed=s) for s in range(3)]
    near = [loss(maps[i], maps[j].softmax(1)).item() for i, j in ((0, 1), (1, 2), (0, 2))]
    assert near[2] <= 2 * (near[0] + near[1])


def test_a_class_that_neither_of_them_sees_adds_nothing():
    seen = torch.zeros(1, 3, 32, 32, 16)
    seen[:, 1, :8] = 20
    seen[:, 2] = -20  # soft targets are never 0
    wider = seen.clone()
    wider[:, 2] = -14
    assert loss(wider, seen.softmax(1)) < 0.05


def test_the_background_counts_if_asked():
    student, teacher = drawn(1, 3, 4, 4), drawn(1, 3, 4, 4, seed=1).softmax(1)
    assert loss(student, teacher) != loss(student, teacher, include_background=True)
