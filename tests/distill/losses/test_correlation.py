import numpy as np
import pytest
import torch

from medkd.distill.losses.correlation import dist


def drawn(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rows(maps):
    return np.moveaxis(maps.double().numpy(), 1, -1).reshape(-1, maps.shape[1])


@pytest.mark.parametrize("space", [(), (4, 5)])
def test_equals_pearsons_correlation_of_numpy(space):
    student, teacher = drawn(3, 4, *space), drawn(3, 4, *space, seed=1).softmax(1)
    q, p = rows(student.softmax(1)), rows(teacher)
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q, p, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    found = dist(student, teacher, beta=2, gamma=3)
    assert found["dist/inter"].item() == pytest.approx(2 * inter, rel=1e-4)
    assert found["dist/intra"].item() == pytest.approx(3 * intra, rel=1e-4)


def test_weights_are_those_of_numpys_weighted_covariance():
    student, teacher = drawn(1, 3, 7), drawn(1, 3, 7, seed=1).softmax(1)
    weights = torch.rand(1, 7) + 0.1
    q, p = rows(student.softmax(1)), rows(teacher)
    by_class = []
    for c in range(3):
        cov = np.cov(q[:, c], p[:, c], aweights=weights[0].numpy())
        by_class.append(1 - cov[0, 1] / np.sqrt(cov[0, 0] * cov[1, 1]))
    found = dist(student, teacher, weights)["dist/intra"]
    assert found.item() == pytest.approx(np.mean(by_class), rel=1e-3)


def test_one_image_has_no_correlation_over_the_batch():
    logits = drawn(1, 4)
    found = dist(drawn(1, 4, seed=5), logits.softmax(1))
    assert found["dist/intra"] == 0
    assert found["dist/inter"] > 0
    assert abs(dist(logits, logits.softmax(1))["dist/inter"].item()) < 1e-5


@pytest.mark.parametrize("temperature", [1, 3])
def test_independent_classes_are_correlated_over_space_alone(temperature):
    student, logits = drawn(2, 3, 5, 4), drawn(2, 3, 5, 4, seed=1)
    q, p = (rows((maps / temperature).sigmoid()) for maps in (student, logits))
    expected = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(q.T, p.T, strict=True)])
    found = dist(student, logits.sigmoid(), sigmoid=True, temperature=temperature)
    assert found.keys() == {"dist/intra"}
    assert found["dist/intra"].item() == pytest.approx(expected, rel=1e-4)


def test_two_exclusive_classes_are_correlated_over_space_alone():
    student, teacher = drawn(2, 2, 5), drawn(2, 2, 5, seed=1).softmax(1)
    assert dist(student, teacher).keys() == {"dist/intra"}
    assert dist(drawn(2, 3, 5), drawn(2, 3, 5).softmax(1)).keys() == {"dist/inter", "dist/intra"}


@pytest.mark.parametrize(("classes", "sigmoid"), [(3, True), (2, False)])
def test_what_has_no_order_in_a_voxel_needs_the_half_that_is_left(classes, sigmoid):
    with pytest.raises(ValueError, match="teaches nothing"):
        dist(drawn(2, classes, 5), drawn(2, classes, 5).sigmoid(), sigmoid=sigmoid, gamma=0)
