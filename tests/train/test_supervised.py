import pytest
import torch
from torch.nn import functional as F

from medkd.train.supervised import supervised
from medkd.types import UNLABELLED, Task


@pytest.fixture
def logits():
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def label():
    return torch.randint(0, 3, (2, 8, 8), generator=torch.Generator().manual_seed(1))


def by_hand(logits, label):
    """Return Dice loss over the foreground, the batch as one image, and the cross-entropy."""
    p, truth = logits.softmax(1)[:, 1:], F.one_hot(label, 3).movedim(-1, 1)[:, 1:]
    space = (0, 2, 3)
    dice = (2 * (p * truth).sum(space) + 1e-5) / (p.sum(space) + truth.sum(space) + 1e-5)
    return {"dice_loss": 1 - dice.mean(), "cross_entropy": F.cross_entropy(logits, label)}


def test_a_map_gives_dice_and_cross_entropy(logits, label):
    terms = supervised(logits, {"label": label}, Task.SEGMENTATION)
    expected = by_hand(logits, label)
    assert terms.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(terms[name], value)


def test_a_class_gives_cross_entropy(logits, label):
    terms = supervised(logits[..., 0, 0], {"label": label[:, 0, 0]}, Task.CLASSIFICATION)
    assert terms.keys() == {"cross_entropy"}
    expected = F.cross_entropy(logits[..., 0, 0], label[:, 0, 0])
    torch.testing.assert_close(terms["cross_entropy"], expected)


def test_voxels_that_nobody_has_judged_do_not_count(logits, label):
    unjudged = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.4
    marked = label.masked_fill(unjudged, UNLABELLED)
    judged = logits.movedim(1, -1)[~unjudged].T[None, :, None]  # one image of one row
    expected = by_hand(judged, label[~unjudged][None, None])
    for name, value in supervised(logits, {"label": marked}, Task.SEGMENTATION).items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("task", list(Task))
def test_a_batch_without_any_label_teaches_nothing(logits, label, task):
    logits = logits.requires_grad_()
    space = (..., 0, 0) if task is Task.CLASSIFICATION else ...
    terms = supervised(logits[space], {"label": label[space] * 0 + UNLABELLED}, task)
    sum(terms.values()).backward()
    assert [value.item() for value in terms.values()] == [0.0] * len(terms)
    assert not logits.grad.any()
