import torch

from medkd.distill.losses.hints import hint


def test_is_the_mean_squared_difference_and_the_teacher_gets_no_gradient():
    student = torch.randn(2, 3, 4, 4, requires_grad=True)
    teacher = torch.randn(2, 3, 4, 4, requires_grad=True)
    loss = hint(student, teacher)["hint"]
    torch.testing.assert_close(loss, ((student - teacher) ** 2).mean())
    loss.backward()
    assert student.grad.any()
    assert teacher.grad is None
