import numpy as np
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


class TestLabelsThatCoverAPart:
    """The first label covers structure 1 alone, the second structure 2."""

    COVERED = torch.tensor([[True, True, False], [True, False, True]])

    @pytest.fixture
    def batch(self, label):
        label = torch.stack([label[0] * (label[0] == 1), label[1] * (label[1] == 2)])
        return {"label": label, "covered": self.COVERED}

    def test_background_and_what_is_not_covered_count_as_one(self, logits, batch):
        p, label = logits.double().softmax(1).numpy(), batch["label"].numpy()
        of_structure = {1: (p[0, 1], label[0] == 1), 2: (p[1, 2], label[1] == 2)}
        dice, cross_entropy = [], []
        for q, truth in of_structure.values():
            dice.append(1 - (2 * (q * truth).sum() + 1e-5) / (q.sum() + truth.sum() + 1e-5))
            cross_entropy.append(-np.log(np.where(truth, q, 1 - q)))
        terms = supervised(logits, batch, Task.SEGMENTATION)
        assert terms["dice_loss"].item() == pytest.approx(np.mean(dice))
        assert terms["cross_entropy"].item() == pytest.approx(np.mean(cross_entropy))

    def test_a_structure_that_no_label_of_the_batch_covers_has_no_say(self, logits, batch):
        first = {name: value[:1] for name, value in batch.items()}
        alone = supervised(logits[:1], first, Task.SEGMENTATION)["dice_loss"]
        p, truth = logits[0].softmax(0)[1], first["label"][0] == 1
        dice = (2 * (p * truth).sum() + 1e-5) / (p.sum() + truth.sum() + 1e-5)
        torch.testing.assert_close(alone, 1 - dice)

    def test_nothing_pulls_probability_from_one_to_another_of_what_is_not_judged(
        self, logits, batch
    ):
        logits = logits.requires_grad_()
        sum(supervised(logits, batch, Task.SEGMENTATION).values()).backward()
        per_share = logits.grad / logits.detach().softmax(1)  # of a class within the merged one
        for case, other in ((0, 2), (1, 1)):
            torch.testing.assert_close(per_share[case, 0], per_share[case, other])
        assert logits.grad.isfinite().all()

    def test_labels_that_cover_all_are_taught_as_ever(self, logits, label):
        batch = {"label": label, "covered": torch.ones(2, 3, dtype=torch.bool)}
        torch.testing.assert_close(
            supervised(logits, batch, Task.SEGMENTATION),
            supervised(logits, {"label": label}, Task.SEGMENTATION),
        )

    def test_voxels_that_nobody_has_judged_still_do_not_count(self, logits, batch):
        logits = logits.requires_grad_()
        batch["label"][:, :4] = UNLABELLED
        sum(supervised(logits, batch, Task.SEGMENTATION).values()).backward()
        assert not logits.grad[:, :, :4].any()
        assert logits.grad[:, :, 4:].any()

    def test_an_unlabelled_case_covers_nothing(self, logits, batch):
        batch["label"][1] = UNLABELLED
        batch["covered"] = torch.tensor([[True, True, False], [True, True, True]])
        first = {name: value[:1] for name, value in batch.items()}
        torch.testing.assert_close(
            supervised(logits, batch, Task.SEGMENTATION),
            supervised(logits[:1], first, Task.SEGMENTATION),
        )


@pytest.mark.parametrize("task", list(Task))
def test_class_weights_weigh_the_cross_entropy(logits, label, task):
    space = (..., 0, 0) if task is Task.CLASSIFICATION else ...
    logits, label = logits[space], label[:, 0, 0] if task is Task.CLASSIFICATION else label
    weights = torch.tensor([1.0, 1.0, 3.0])
    of_voxel, weight = F.cross_entropy(logits, label, reduction="none"), weights[label]
    terms = supervised(logits, {"label": label}, task, weights)
    expected = (of_voxel * weight).sum() / weight.sum()
    torch.testing.assert_close(terms["cross_entropy"], expected)
