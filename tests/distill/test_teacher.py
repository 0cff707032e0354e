import pytest
import torch
from torch import nn

from medkd.distill.teacher import FrozenTeacher, OnlineTeacher
from medkd.metrics.temperature import apply_temperature
from medkd.types import Activation


def member(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout(0.5))


@pytest.fixture
def teacher():
    return FrozenTeacher([member(0), member(1)], temperatures=[1.0, 2.5])


@pytest.fixture
def image():
    return torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(3))


def test_stays_in_evaluation_inside_a_training_module(teacher):
    outer = nn.ModuleDict({"teacher": teacher, "student": member(2)})
    outer.train()
    assert not any(module.training for module in teacher.modules())
    assert outer["student"].training


def test_passes_no_gradient(teacher, image):
    assert not teacher(image.requires_grad_()).requires_grad
    assert not any(p.requires_grad for p in teacher.parameters())


def test_an_optimiser_finds_nothing_to_train(teacher):
    outer = nn.ModuleDict({"teacher": teacher, "student": member(2)})
    trainable = {id(p) for p in outer.parameters() if p.requires_grad}
    assert trainable == {id(p) for p in outer["student"].parameters()}


def test_using_it_in_training_mode_changes_none_of_its_buffers(teacher, image):
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    teacher.train()(image)
    torch.testing.assert_close(teacher.state_dict(), before, rtol=0, atol=0)


def test_averages_probabilities_each_at_its_own_temperature(teacher, image):
    first, second = (network(image) for network in teacher.members)
    mean = (first.softmax(1) + (second / 2.5).softmax(1)) / 2
    torch.testing.assert_close(teacher(image).exp(), mean)


def test_a_single_member_gives_its_calibrated_logits(image):
    network = member(0).eval()
    alone = FrozenTeacher([network], temperatures=[2.0])
    torch.testing.assert_close(alone(image), network(image) / 2)


def test_each_class_may_have_a_temperature_of_its_own(image):
    network, temperature = member(0).eval(), (0.5, 1.5, 3.0)
    alone = FrozenTeacher([network], temperatures=[temperature])
    expected = apply_temperature(network(image).detach().numpy(), temperature, axis=1)
    torch.testing.assert_close(alone(image).softmax(1), torch.from_numpy(expected))


def test_certainty_stays_finite():
    sure = nn.Linear(1, 2, bias=False)
    nn.init.constant_(sure.weight[0], 200.0)
    nn.init.constant_(sure.weight[1], -200.0)
    teacher = FrozenTeacher([sure, sure], temperatures=[1.0, 1.0])
    assert teacher(torch.ones(1, 1)).isfinite().all()


def test_every_member_needs_a_temperature(image):
    with pytest.raises(ValueError, match="shorter"):
        FrozenTeacher([member(0), member(1)], temperatures=[1.0])(image)


def test_members_count_by_their_weight(image):
    members = [member(0), member(1)]
    weighted = FrozenTeacher(members, temperatures=[1.0, 1.0], weights=[3.0, 1.0])
    each = [m.eval()(image).softmax(1) for m in members]
    torch.testing.assert_close(weighted(image).exp(), (3 * each[0] + each[1]) / 4)


class TestOnline:
    @pytest.fixture
    def teacher(self):
        members = [member(0), member(1)]
        return OnlineTeacher(members, temperatures=[1.0, 2.5])

    def test_each_patch_is_answered_by_those_who_may_speak(self, teacher, image):
        first, second = (
            (m(image) / t).softmax(1)
            for m, t in zip(teacher.members, teacher.temperatures, strict=True)
        )
        said, _ = teacher.said(image, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        torch.testing.assert_close(said, torch.stack([first[0], second[1]]))
        said, _ = teacher.said(image, torch.tensor([[1.0, 3.0], [2.0, 0.0]]))
        mixed = torch.stack([(first[0] + 3 * second[0]) / 4, first[1]])
        torch.testing.assert_close(said, mixed)

    def test_features_are_those_of_the_member_that_speaks(self, teacher, image):
        _, features = teacher.said(image, torch.eye(2), layers=["0"])
        expected = [teacher.members[i][0](image[i : i + 1])[0] for i in (0, 1)]
        torch.testing.assert_close(features["0"], torch.stack(expected))

    def test_it_averages_over_flips_what_it_says_and_no_features(self, image):
        teacher = OnlineTeacher([member(0)], temperatures=[2.0], flip_axes=[0, 1])
        said, features = teacher.said(image, torch.ones(2, 1), layers=["0"])
        alone = FrozenTeacher([member(0)], temperatures=[2.0])
        views = [alone(image.flip(axes)).softmax(1).flip(axes) for axes in ([], [2], [3], [2, 3])]
        torch.testing.assert_close(said, torch.stack(views).mean(0))
        torch.testing.assert_close(features["0"], teacher.members[0][0](image))

    def test_passes_no_gradient(self, teacher, image):
        said, features = teacher.said(image.requires_grad_(), torch.eye(2), layers=["0"])
        assert not said.requires_grad
        assert not features["0"].requires_grad


class TestOverlapping:
    @pytest.fixture
    def teacher(self):
        members = [member(0), member(1)]
        temperatures = [(1.0, 2.0, 0.5), 2.5]
        return FrozenTeacher(
            members, temperatures=temperatures, weights=[1.0, 3.0], activation=Activation.SIGMOID
        )

    def test_it_gives_the_odds_of_the_mean_probability(self, teacher, image):
        first, second = (network(image) for network in teacher.members)
        first = first / torch.tensor([1.0, 2.0, 0.5]).reshape(-1, 1, 1)
        mean = (first.sigmoid() + 3 * (second / 2.5).sigmoid()) / 4
        torch.testing.assert_close(teacher(image).sigmoid(), mean)

    def test_certainty_of_all_members_stays_what_it_is(self, teacher):
        class Sure(nn.Module):
            def forward(self, image):
                return 20.0 * torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1).expand(1, 2, 4, 4)

        sure = FrozenTeacher(
            [Sure(), Sure()], temperatures=[1.0, 1.0], activation=Activation.SIGMOID
        )
        said = sure(torch.zeros(1, 1, 4, 4))
        torch.testing.assert_close(said[:, 0], torch.full((1, 4, 4), 20.0), rtol=1e-3, atol=0)
        torch.testing.assert_close(said[:, 1], -said[:, 0])

    def test_asked_online_it_gives_probabilities_of_each(self, teacher, image):
        online = OnlineTeacher(
            list(teacher.members), temperatures=teacher.temperatures, activation=Activation.SIGMOID
        )
        said, _ = online.said(image, torch.tensor([[1.0, 0.0], [1.0, 3.0]]))
        torch.testing.assert_close(said[1], teacher(image)[1].sigmoid())
        assert not torch.allclose(said.sum(dim=1), torch.ones(2, 6, 6))
