import numpy as np
import pytest
import torch
from scipy.special import log_softmax

from medkd.distill.losses.channel import channel_divergence, cwd


def drawn(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1, 4.0])
def test_equals_the_textbook_formula(temperature):
    student, teacher = drawn(2, 3, 4, 5), drawn(2, 3, 4, 5, seed=1)
    log_q, log_p = (
        log_softmax(
            log_softmax(z.numpy().astype(np.float64), axis=1).reshape(2, 3, -1) / temperature,
            axis=2,
        )
        for z in (student, teacher)
    )
    textbook = temperature**2 * (np.exp(log_p) * (log_p - log_q)).sum() / (2 * 3)
    found = cwd(student, teacher.softmax(1), temperature=temperature)["cwd"]
    assert found.item() == pytest.approx(textbook, rel=1e-4)


def test_only_the_voxels_that_count_are_a_distribution():
    student, teacher = drawn(1, 3, 8), drawn(1, 3, 8, seed=1).softmax(1)
    counts = torch.tensor([[True] * 5 + [False] * 3])
    inside = cwd(student[..., :5], teacher[..., :5])
    torch.testing.assert_close(cwd(student, teacher, counts), inside)


def test_features_are_compared_channel_by_channel():
    student, teacher = drawn(2, 5, 4, 4), drawn(2, 5, 4, 4, seed=1)
    terms = channel_divergence(student, teacher, None, 2.0)
    assert terms.shape == (2, 5)
    one = channel_divergence(student[:1, 2:3], teacher[:1, 2:3], None, 2.0)
    torch.testing.assert_close(terms[0, 2], one[0, 0])


def test_classification_has_no_places():
    with pytest.raises(ValueError, match="compares places"):
        cwd(drawn(2, 3), drawn(2, 3).softmax(1))
