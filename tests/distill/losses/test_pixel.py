import math

import numpy as np
import pytest
import torch
from jaxtyping import TypeCheckError
from scipy.special import expit, log_softmax, softmax

from medkd.distill.losses import pixel

SPACES = [(), (6, 5), (4, 3, 5)]


def drawn(*shape, seed=0, scale=2.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pixel_kd(*args, **options):
    (loss,) = pixel.pixel_kd(*args, **options).values()
    return loss


def gradient(student, *args, **options):
    student = student.clone().requires_grad_()
    pixel_kd(student, *args, **options).backward()
    return student.grad


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
def test_equals_the_textbook_formula(space, temperature):
    student, teacher = drawn(2, 3, *space), drawn(2, 3, *space, seed=1)
    p = softmax(teacher.numpy().astype(np.float64) / temperature, axis=1)
    log_q = log_softmax(student.numpy().astype(np.float64) / temperature, axis=1)
    textbook = temperature**2 * (p * (np.log(p) - log_q)).sum(axis=1).mean()
    loss = pixel_kd(student, teacher.softmax(1), temperature=temperature)
    assert loss.item() == pytest.approx(textbook, rel=1e-4)


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("batch", [1, 3])
def test_is_zero_where_the_student_agrees(space, batch):
    logits = drawn(batch, 3, *space)
    assert abs(pixel_kd(logits, logits.softmax(1), temperature=4.0).item()) < 1e-5
    assert gradient(logits, logits.softmax(1), temperature=4.0).abs().max() < 1e-5


def test_is_positive_where_the_student_differs():
    student, teacher = drawn(4, 3, 5, 5), drawn(4, 3, 5, 5, seed=1)
    assert pixel_kd(student, teacher.softmax(1)) > 0


def test_the_gradient_keeps_its_size_when_the_temperature_grows():
    student, teacher = drawn(64, 5), drawn(64, 5, seed=1).softmax(1)
    sizes = [gradient(student, teacher, temperature=t).norm().item() for t in (10.0, 20.0, 40.0)]
    assert sizes == pytest.approx([sizes[-1]] * 3, rel=0.05)


def test_does_not_change_when_the_batch_is_repeated():
    student, teacher = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1).softmax(1)
    once = pixel_kd(student, teacher)
    torch.testing.assert_close(
        pixel_kd(student.repeat(3, 1, 1, 1), teacher.repeat(3, 1, 1, 1)), once
    )


def test_does_not_grow_with_the_patch():
    student, teacher = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1).softmax(1)
    once = pixel_kd(student, teacher)
    torch.testing.assert_close(
        pixel_kd(student.repeat(1, 1, 3, 2), teacher.repeat(1, 1, 3, 2)), once
    )


def test_classes_that_nobody_finds_likely_change_nothing():
    student, teacher = drawn(2, 3, 4, 4), drawn(2, 3, 4, 4, seed=1)
    never = torch.full((2, 5, 4, 4), -80.0)
    wide = pixel_kd(
        torch.cat([student, never], 1), torch.cat([teacher, never], 1).softmax(1), temperature=1.0
    )
    torch.testing.assert_close(wide, pixel_kd(student, teacher.softmax(1), temperature=1.0))


class TestMask:
    student, teacher = drawn(2, 3, 6, 6), drawn(2, 3, 6, 6, seed=1).softmax(1)
    valid = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(2)) < 0.5

    def test_a_full_mask_is_no_mask(self):
        masked = pixel_kd(self.student, self.teacher, torch.ones(2, 6, 6, dtype=torch.bool))
        torch.testing.assert_close(masked, pixel_kd(self.student, self.teacher))

    def test_is_the_mean_over_the_voxels_that_count(self):
        by_voxel = [
            pixel_kd(self.student[b, :, y, x][None], self.teacher[b, :, y, x][None])
            for b, y, x in self.valid.nonzero().tolist()
        ]
        masked = pixel_kd(self.student, self.teacher, self.valid)
        torch.testing.assert_close(masked, torch.stack(by_voxel).mean())

    def test_masked_voxels_move_neither_value_nor_gradient(self):
        elsewhere = torch.where(self.valid[:, None], self.student, drawn(2, 3, 6, 6, seed=3))
        assert torch.equal(
            pixel_kd(elsewhere, self.teacher, self.valid),
            pixel_kd(self.student, self.teacher, self.valid),
        )
        moved = gradient(self.student, self.teacher, self.valid)
        assert not moved[~self.valid[:, None].expand_as(moved)].any()
        assert moved[self.valid[:, None].expand_as(moved)].all()

    def test_nothing_valid_is_zero_without_a_gradient(self):
        nothing = torch.zeros(2, 6, 6, dtype=torch.bool)
        assert pixel_kd(self.student, self.teacher, nothing) == 0
        assert not gradient(self.student, self.teacher, nothing).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_stays_finite_in_half_precision_at_large_logits(dtype, temperature):
    student, teacher = drawn(2, 3, 8, 8, scale=40), drawn(2, 3, 8, 8, seed=1, scale=40)
    soft = teacher.softmax(1).clamp_min(1e-10).to(torch.float32)
    loss = pixel_kd(student.to(dtype), soft, temperature=temperature)
    assert loss.dtype == torch.float32
    assert math.isfinite(loss)
    assert gradient(student.to(dtype), soft, temperature=temperature).isfinite().all()
    exact = pixel_kd(student, soft, temperature=temperature).item()
    assert loss.item() == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_that_is_not_positive_is_refused(temperature):
    with pytest.raises(ValueError, match=f"temperature must be positive, got {temperature}"):
        pixel_kd(drawn(1, 2), drawn(1, 2).softmax(1), temperature=temperature)


@pytest.mark.parametrize("teacher", [(2, 4, 5, 5), (1, 3, 5, 5), (2, 3, 5)])
def test_shapes_that_do_not_match_are_refused(teacher):
    with pytest.raises(TypeCheckError):
        pixel_kd(drawn(2, 3, 5, 5), drawn(*teacher).softmax(1))


class TestSigmoid:
    @pytest.mark.parametrize("space", SPACES)
    @pytest.mark.parametrize("temperature", [1.0, 3.0])
    def test_equals_the_textbook_formula(self, space, temperature):
        student, teacher = drawn(2, 3, *space), drawn(2, 3, *space, seed=1)
        q, p = (expit(z.numpy().astype(np.float64) / temperature) for z in (student, teacher))
        textbook = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean()
        loss = pixel_kd(student, teacher.sigmoid(), temperature=temperature, sigmoid=True)
        assert loss.item() == pytest.approx(temperature**2 * textbook, rel=1e-4)

    def test_sees_a_shift_that_is_common_to_all_classes(self):
        logits = drawn(2, 3, 4, 4)
        assert pixel_kd(logits + 5, logits.sigmoid(), sigmoid=True) > 0.5
        assert abs(pixel_kd(logits + 5, logits.softmax(1)).item()) < 1e-5

    def test_is_zero_where_the_student_agrees(self):
        logits = drawn(2, 3, 4, 4)
        options = {"temperature": 2.0, "sigmoid": True}
        assert abs(pixel_kd(logits, logits.sigmoid(), **options).item()) < 1e-5
        assert gradient(logits, logits.sigmoid(), **options).abs().max() < 1e-5


def test_exclusive_classes_weigh_by_their_voxels():
    logits = drawn(1, 3, 4)
    with pytest.raises(ValueError, match="those of their voxels"):
        pixel_kd(logits, logits.softmax(1), class_weights=(1, 2, 3))
