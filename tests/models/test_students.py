import pytest
from torch import nn

from medkd.models.cost import macs, parameters
from medkd.models.students import flexible_unet, plain_unet, separable_unet


@pytest.mark.parametrize("dims", [2, 3])
def test_a_separable_network_multiplies_less_for_the_same_channels(dims):
    shape = (1, 1, *[16] * dims)
    plain, separable = (f(1, 3, dims, channels=(16, 32, 64)) for f in (plain_unet, separable_unet))
    assert macs(separable, shape) < 0.6 * macs(plain, shape)
    assert parameters(separable) < parameters(plain)


def test_every_convolution_of_a_separable_network_mixes_channels_or_space_and_not_both():
    for module in separable_unet(2, 3, 3, channels=(8, 16, 32)).modules():
        if isinstance(module, nn.Conv3d):
            assert module.groups == module.in_channels or max(module.kernel_size) == 1


def test_an_encoder_keeps_nothing_of_the_classifier():
    network = flexible_unet(1, 2, 2)
    assert not [name for name, _ in network.named_parameters() if "_fc" in name]
