import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medkd.models.cost import macs, parameters
from medkd.models.students import plain_unet
from medkd.models.teachers import dynunet, resnet


def test_parameters_leave_buffers_out():
    assert parameters(nn.BatchNorm2d(5)) == 10


@pytest.mark.parametrize(
    ("layer", "shape", "by_hand"),
    [
        # outputs x weights of one output
        (nn.Conv3d(2, 4, 3, padding=1), (1, 2, 5, 6, 7), (4 * 5 * 6 * 7) * (2 * 27)),
        (nn.Conv2d(2, 4, 3, stride=2, padding=1), (1, 2, 8, 8), (4 * 4 * 4) * (2 * 9)),
        (nn.Conv2d(4, 4, 3, groups=4, padding=1), (1, 4, 8, 8), (4 * 8 * 8) * 9),
        # inputs x weights that meet an input
        (nn.ConvTranspose3d(4, 2, 2, stride=2), (1, 4, 3, 3, 3), (4 * 27) * (2 * 8)),
        (nn.ConvTranspose2d(4, 4, 2, stride=2, groups=2), (1, 4, 5, 5), (4 * 25) * (2 * 4)),
        (nn.Linear(10, 3), (2, 10), 2 * 10 * 3),
        (nn.Linear(10, 3), (2, 7, 10), 2 * 7 * 10 * 3),
    ],
)
def test_layers_count_as_by_hand(layer, shape, by_hand):
    assert macs(layer, shape) == by_hand


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("factory", "options"),
    [
        (plain_unet, {"channels": [4, 8, 8]}),
        (dynunet, {"filters": [4, 8, 8]}),
        (resnet, {"widths": [4] * 4, "blocks": [1] * 4}),
    ],
)
def test_networks_count_as_torch_counts_them(factory, options, dims):
    model = factory(1, 3, dims, **options).eval()
    shape = (1, 1, *[32] * dims)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(shape))
    assert 2 * macs(model, shape) == counter.get_total_flops()


def test_counting_leaves_the_network_as_it_was():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    macs(model, (1, 1, 8, 8))
    assert model.training
    assert not model[0]._forward_hooks
    torch.testing.assert_close(model.state_dict(), before)
