import numpy as np
import pytest
import torch

from medkd.distill.losses.decoupled import dkd
from medkd.distill.losses.pixel import pixel_kd


def drawn(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def kl(p, q):
    return (p * np.log(p / q)).sum()


@pytest.mark.parametrize("temperature", [1, 3.0])
def test_equals_the_textbook_formula(temperature):
    student, teacher, label = drawn(6, 5), drawn(6, 5, seed=1), torch.tensor([0, 1, 2, 3, 4, 0])
    target, others = [], []
    for s, t, y in zip(student.double(), teacher.double(), label.tolist(), strict=True):
        q, p = ((z / temperature).softmax(0).numpy() for z in (s, t))
        target.append(kl(np.array([p[y], 1 - p[y]]), np.array([q[y], 1 - q[y]])))
        rest = np.arange(5) != y
        others.append(kl(p[rest] / p[rest].sum(), q[rest] / q[rest].sum()))
    found = dkd(student, teacher.softmax(1), None, label, alpha=2, beta=3, temperature=temperature)
    scale = temperature**2
    assert found["dkd/target"].item() == pytest.approx(2 * scale * np.mean(target), rel=1e-4)
    assert found["dkd/others"].item() == pytest.approx(3 * scale * np.mean(others), rel=1e-4)


def test_its_parts_weighted_by_the_teachers_doubt_are_the_whole_divergence():
    student, teacher, label = drawn(1, 4), drawn(1, 4, seed=1).softmax(1), torch.tensor([2])
    parts = dkd(student, teacher, None, label, alpha=1, beta=1, temperature=1)
    whole = parts["dkd/target"] + (1 - teacher[0, 2]) * parts["dkd/others"]
    torch.testing.assert_close(whole, pixel_kd(student, teacher, temperature=1)["pixel_kd"])


def test_two_classes_are_refused_with_the_reason():
    with pytest.raises(ValueError, match=r"3 classes or more: .*nothing is left to decouple"):
        dkd(drawn(2, 2), drawn(2, 2).softmax(1), None, torch.tensor([0, 1]))


@pytest.mark.parametrize("floor", [0.0, 1e-30])
def test_a_teacher_that_says_nothing_of_the_rest_teaches_nothing_of_it(floor):
    teacher = torch.full((2, 4), floor)
    teacher[0, 2], teacher[1] = 1.0, drawn(4).softmax(0)
    label = torch.tensor([2, 0])
    both = dkd(drawn(2, 4, seed=1), teacher, None, label)["dkd/others"]
    other = dkd(drawn(2, 4, seed=1)[1:], teacher[1:], None, label[1:])["dkd/others"]
    torch.testing.assert_close(both, other / 2)


@pytest.mark.parametrize("least", [1e-7, 1e-16])
def test_the_least_probabilities_have_an_order(least):
    teacher = torch.tensor([[1.0, 4 * least, 2 * least, least]])
    label = torch.tensor([0])
    assert dkd(teacher.log(), teacher, None, label)["dkd/others"] < 1e-6
    assert dkd(teacher.log().flip(1), teacher, None, label)["dkd/others"] > 0.1


def test_a_student_that_is_sure_and_wrong_has_a_finite_loss_and_gradient():
    student = torch.tensor([[300.0, 0, 0]], requires_grad=True)
    terms = dkd(student, drawn(1, 3).softmax(1), None, torch.tensor([1]), temperature=1)
    sum(terms.values()).backward()
    assert student.grad.isfinite().all()
    assert student.grad[0, 0] > 0
