import pytest
import torch
from monai.losses.dice import DiceLoss
from torch.nn import functional as F

from medkd.train.independent import independent
from medkd.types import UNLABELLED, Task


def batch(*, seed=0):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, 5, 6, 4, generator=generator, requires_grad=True)
    label = (torch.rand(2, 3, 5, 6, 4, generator=generator) < 0.3).to(torch.uint8)
    return logits, label


def test_equals_monais_dice_and_torchs_cross_entropy():
    logits, label = batch()
    terms = independent(logits, {"label": label})
    dice = DiceLoss(sigmoid=True, batch=True)(logits, label)
    torch.testing.assert_close(terms["dice_loss"], dice)
    expected = F.binary_cross_entropy_with_logits(logits, label.float())
    torch.testing.assert_close(terms["cross_entropy"], expected)


def test_what_nobody_has_judged_plays_no_part():
    logits, label = batch()
    label[:, 0, 2:] = UNLABELLED
    terms = independent(logits, {"label": label})
    moved = logits.detach().clone()
    moved[:, 0, 2:] += 7
    for name, value in independent(moved, {"label": label}).items():
        torch.testing.assert_close(value, terms[name].detach())
    torch.stack(list(terms.values())).sum().backward()
    assert (logits.grad[:, 0, 2:] == 0).all()
    assert (logits.grad[:, 0, :2] != 0).all()


def test_a_structure_that_is_judged_nowhere_dilutes_nothing():
    logits, label = batch()
    label[:, 1] = UNLABELLED
    terms = independent(logits, {"label": label})
    rest = independent(logits[:, [0, 2]], {"label": label[:, [0, 2]]})
    for name, value in rest.items():
        torch.testing.assert_close(value, terms[name])


def test_weights_are_of_the_structures_in_the_cross_entropy():
    logits, label = batch()
    terms = independent(logits, {"label": label}, torch.tensor([1.0, 0.0, 3.0]))
    each = F.binary_cross_entropy_with_logits(logits, label.float(), reduction="none")
    expected = (each[:, 0].mean() + 3 * each[:, 2].mean()) / 4
    torch.testing.assert_close(terms["cross_entropy"], expected)
    torch.testing.assert_close(
        terms["dice_loss"], independent(logits, {"label": label})["dice_loss"]
    )


def test_a_batch_without_any_label_costs_nothing():
    logits, label = batch()
    terms = independent(logits, {"label": torch.full_like(label, UNLABELLED)})
    assert {name: value.item() for name, value in terms.items()} == {
        "dice_loss": 0,
        "cross_entropy": 0,
    }
    torch.stack(list(terms.values())).sum().backward()
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("overlapping", [False, True])
def test_it_is_least_where_every_structure_is_right_by_itself(overlapping):
    label = torch.zeros(1, 2, 8, 8, dtype=torch.uint8)
    label[:, 0, 2:6], label[:, 1, 3 if overlapping else 6 :] = 1, 1
    right = 40.0 * (2 * label.float() - 1)
    assert sum(independent(right, {"label": label}).values()) < 1e-4
    assert sum(independent(-right, {"label": label}).values()) > 1


def test_findings_are_learned_by_cross_entropy_alone_where_they_were_judged():
    torch.manual_seed(0)
    logits = torch.randn(4, 3)
    label = torch.tensor([[0, 1, 0], [1, 1, UNLABELLED], [0, 0, 1], [UNLABELLED] * 3]).byte()
    terms = independent(logits, {"label": label}, task=Task.CLASSIFICATION)
    judged = label != UNLABELLED
    expected = F.binary_cross_entropy_with_logits(logits[judged], label[judged].float())
    assert terms.keys() == {"cross_entropy"}
    torch.testing.assert_close(terms["cross_entropy"], expected)
    nothing = torch.full_like(label, UNLABELLED)
    assert independent(logits, {"label": nothing}, task=Task.CLASSIFICATION) == {"cross_entropy": 0}
