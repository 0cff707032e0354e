import numpy as np
import pytest
import torch

from medkd.distill.losses.region import region_affinity


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def label():
    found = torch.zeros(2, 4, 6, dtype=torch.int64)
    found[:, :, 2:4], found[:, :, 4:] = 1, 2
    return found


def textbook(student, teacher, label):
    """Mean over images and pairs of the squared difference of cosines; absent pairs left out."""
    apart = []
    for q, p, y in zip(student.numpy(), teacher.numpy(), label.numpy(), strict=True):
        present = np.unique(y)
        for i, a in enumerate(present):
            for b in present[i + 1 :]:
                cosines = []
                for f in (q, p):
                    one, other = f[:, y == a].mean(1), f[:, y == b].mean(1)
                    cosines.append(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
                apart.append((cosines[0] - cosines[1]) ** 2)
    return np.mean(apart)


def loss(*args):
    (value,) = region_affinity(*args).values()
    return value


def test_equals_the_textbook_formula(label):
    student, teacher = drawn(2, 3, 4, 6), drawn(2, 5, 4, 6, seed=1)
    expected = textbook(student, teacher, label)
    assert loss(student, teacher, label).item() == pytest.approx(expected, rel=1e-4)


def test_a_region_that_is_absent_from_an_image_is_left_out(label):
    label[0][label[0] == 2] = 1
    student, teacher = drawn(2, 3, 4, 6).requires_grad_(), drawn(2, 5, 4, 6, seed=1)
    value = loss(student, teacher, label)
    expected = textbook(student.detach(), teacher, label)
    assert value.item() == pytest.approx(expected, rel=1e-4)
    value.backward()
    assert student.grad.isfinite().all()


def test_structures_may_overlap_and_what_is_none_of_them_is_a_region_too():
    structures = drawn(2, 2, 4, 6, seed=2) > 0
    student, teacher = drawn(2, 3, 4, 6), drawn(2, 5, 4, 6, seed=1)
    masks = [~structures.any(dim=1), structures[:, 0], structures[:, 1]]
    apart = []
    for one, other in ((0, 1), (0, 2), (1, 2)):
        for i in range(2):
            cosines = [
                torch.cosine_similarity(
                    f[i][:, masks[one][i]].mean(1), f[i][:, masks[other][i]].mean(1), 0
                )
                for f in (student, teacher)
            ]
            apart.append((cosines[0] - cosines[1]) ** 2)
    found = loss(student, teacher, structures.to(torch.uint8))
    torch.testing.assert_close(found, torch.stack(apart).mean())


def test_one_region_all_over_is_zero_and_still_hangs_on_the_student():
    student = drawn(1, 3, 4, 4).requires_grad_()
    value = loss(student, drawn(1, 3, 4, 4), torch.zeros(1, 4, 4, dtype=torch.int64))
    assert value == 0
    value.backward()
    assert not student.grad.any()


def test_the_label_is_brought_to_each_ones_grid(label):
    coarse = drawn(2, 3, 2, 3, seed=1)
    assert loss(drawn(2, 3, 4, 6), coarse, label).isfinite()
    features = drawn(2, 3, 4, 6)
    assert loss(features, features, label) < 1e-10
