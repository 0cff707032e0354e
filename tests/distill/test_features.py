import pytest
import torch
from torch import nn

from medkd.distill.features import Adapter, resize, tapped
from medkd.errors import ConfigError


@pytest.fixture
def network():
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))


def test_a_tap_collects_what_the_layers_put_out_and_leaves_no_hook(network):
    image = torch.randn(2, 1, 5, 5)
    with tapped(network, ["0", "2"]) as features:
        answer = network(image)
    assert set(features) == {"0", "2"}
    torch.testing.assert_close(features["0"], network[0](image))
    torch.testing.assert_close(features["2"], answer)
    assert not any(module._forward_hooks for module in network.modules())


def test_what_follows_changes_nothing_that_was_tapped_in_place():
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True))
    image = torch.randn(1, 1, 5, 5)
    with tapped(network, ["0"]) as features:
        network(image)
    torch.testing.assert_close(features["0"], network[0](image))
    assert features["0"].min() < 0


def test_a_gradient_flows_through_what_was_tapped(network):
    with tapped(network, ["0"]) as features:
        network(torch.randn(1, 1, 5, 5))
    features["0"].sum().backward()
    assert network[0].weight.grad.any()


def test_an_unknown_layer_is_refused_with_the_known_ones_and_no_hook_stays(network):
    with (
        pytest.raises(ConfigError, match=r"no layer '9' in Sequential; .*it has 0, 1, 2"),
        tapped(network, ["0", "9"]),
    ):
        pass
    assert not any(module._forward_hooks for module in network.modules())


@pytest.mark.parametrize("space", [(), (6, 5), (4, 3, 5)])
def test_an_adapter_gives_the_students_features_the_teachers_shape(space):
    larger = tuple(2 * n for n in space)
    adapter = Adapter((2, 3, *space), (2, 8, *larger))
    student = torch.randn(2, 3, *space, requires_grad=True)
    adapted = adapter(student, larger)
    assert adapted.shape == (2, 8, *larger)
    adapted.sum().backward()
    assert student.grad.any()
    assert all(p.grad.any() for p in adapter.parameters())


def test_features_on_the_same_grid_are_left_alone():
    maps = torch.randn(1, 2, 4, 4)
    assert resize(maps, (4, 4)) is maps
