import pytest
import torch
from torch.nn import functional as F

from medkd.distill import divergence
from medkd.distill.divergence import bernoulli_divergence, softmax_divergence

LAYOUTS = [torch.contiguous_format, torch.channels_last_3d]


def drawn(*shape, seed=0):
    return 2 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def usual(student, teacher, weights, *, temperature):
    """The form that autograd differentiates, in float64."""
    log_q = (student.double() / temperature).log_softmax(1)
    log_p = (teacher.double().log() / temperature).log_softmax(1)
    by_voxel = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    weights = torch.ones_like(by_voxel) if weights is None else weights.double()
    return temperature**2 * (weights * by_voxel).sum() / weights.sum()


def usual_bernoulli(student, teacher, weights, *, temperature):
    q, p = (
        torch.stack([z, -z], 1).sigmoid()
        for z in (student / temperature, teacher.logit() / temperature)
    )
    by_voxel = (p * (p / q).log()).sum(1).mean(1).double()
    weights = torch.ones_like(by_voxel) if weights is None else weights.double()
    return temperature**2 * (weights * by_voxel).sum() / weights.sum()


@pytest.mark.parametrize("block", [7, 1 << 17])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("shape", [(5, 3), (2, 4, 5, 6), (2, 3, 4, 5, 3)])
@pytest.mark.parametrize(
    ("function", "oracle"),
    [(softmax_divergence, usual), (bernoulli_divergence, usual_bernoulli)],
    ids=["softmax", "bernoulli"],
)
def test_value_and_gradient_are_those_of_autograd(
    monkeypatch, function, oracle, shape, weighted, block
):
    monkeypatch.setattr(divergence, "BLOCK", block)
    teacher = drawn(*shape, seed=1)
    teacher = teacher.softmax(1) if function is softmax_divergence else teacher.sigmoid()
    weights = torch.rand(shape[0], *shape[2:]) if weighted else None
    found, expected = [], []
    for kept, compute in ((found, function), (expected, oracle)):
        student = drawn(*shape).requires_grad_()
        value = compute(student, teacher, weights, temperature=3.0)
        (5 * value).backward()
        kept += [value.detach().float(), student.grad]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_gradient_has_the_students_type_and_layout(layout, dtype):
    student = drawn(2, 3, 4, 4, 4).to(dtype).contiguous(memory_format=layout).requires_grad_()
    value = softmax_divergence(student, drawn(2, 3, 4, 4, 4).softmax(1), temperature=2)
    value.backward()
    assert value.dtype == torch.float32
    assert student.grad.dtype == dtype
    assert student.grad.is_contiguous(memory_format=layout)


def test_small_gradients_survive_half_precision_when_the_loss_is_scaled():
    student = drawn(1, 3, 64, 64, 32)
    teacher = (student + 0.1 * drawn(1, 3, 64, 64, 32, seed=1)).softmax(1)
    gradients = []
    for dtype in (torch.float32, torch.float16):
        leaf = student.clone().to(dtype).detach().requires_grad_()
        (65536 * softmax_divergence(leaf, teacher, temperature=1)).backward()
        gradients.append(leaf.grad.float())
    assert (gradients[1] == 0).float().mean() < 0.01
    torch.testing.assert_close(gradients[1].norm(), gradients[0].norm(), rtol=0.02, atol=0)


def test_a_layout_that_cannot_be_viewed_by_voxel_is_right_too():
    student, teacher = drawn(2, 3, 4, 5, 6), drawn(2, 3, 4, 5, 6, seed=1).softmax(1)
    gradients = []
    for turned in (student, student.transpose(2, 4).contiguous().transpose(2, 4)):
        leaf = turned.detach().requires_grad_()
        softmax_divergence(leaf, teacher, temperature=2).backward()
        gradients.append(leaf.grad)
    torch.testing.assert_close(*gradients)


def test_only_the_gradient_is_as_large_as_the_logits():
    student = drawn(1, 8, 128, 128, 32).requires_grad_()
    teacher = drawn(1, 8, 128, 128, 32, seed=1).softmax(1)
    size = student.numel() * student.element_size()
    with torch.profiler.profile(profile_memory=True) as profile:
        softmax_divergence(student, teacher, temperature=2).backward()
    large = [e.name for e in profile.events() if e.self_cpu_memory_usage >= size / 2]
    assert large == ["aten::empty_strided"]


def test_no_gradient_is_made_that_nobody_wants():
    value = softmax_divergence(drawn(2, 3, 4), drawn(2, 3, 4).softmax(1), temperature=2)
    assert not value.requires_grad


@pytest.mark.parametrize("temperature", [1, 4])
@pytest.mark.parametrize("logit", [-60.0, -30.0, 0.0, 10.0, 20.0, 60.0])
def test_independent_classes_agree_however_sure_both_are(logit, temperature):
    student = torch.full((1, 2, 5), logit, requires_grad=True)
    loss = bernoulli_divergence(student, student.detach().sigmoid(), temperature=temperature)
    loss.backward()
    assert abs(loss.item()) < 1e-5
    assert student.grad.abs().max() < 1e-5


def test_a_student_that_is_sure_of_the_contrary_is_pulled_back():
    student = torch.full((1, 2, 5), -30.0, requires_grad=True)
    bernoulli_divergence(student, torch.ones(1, 2, 5), temperature=1).backward()
    assert student.grad.max() < -0.05


@pytest.mark.parametrize(
    ("teacher", "weights"),
    [((2, 2, 5), None), ((1, 3, 5), None), ((2, 3, 4), None), ((2, 3, 5), (1, 5))],
)
@pytest.mark.parametrize("function", [softmax_divergence, bernoulli_divergence])
def test_shapes_that_do_not_fit_are_refused(function, teacher, weights):
    with pytest.raises(ValueError, match=r"for (logits|probabilities) "):
        function.__wrapped__(
            drawn(2, 3, 5), torch.rand(teacher), weights and torch.rand(weights), temperature=1
        )


def test_a_second_gradient_is_refused_rather_than_wrong():
    student = drawn(2, 3, 4).requires_grad_()
    value = softmax_divergence(student, drawn(2, 3, 4, seed=1).softmax(1), temperature=2)
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="differentiated before"):
        value.backward()
