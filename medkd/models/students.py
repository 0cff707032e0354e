"""Students: light networks, chosen for speed on a CPU."""

from collections.abc import Sequence

from monai.networks.nets.unet import UNet
from torch import nn


def plain_unet(
    in_channels: int,
    classes: int,
    spatial_dims: int,
    *,
    channels: Sequence[int] = (8, 16, 32, 64),
    first_stride: int = 2,
) -> nn.Module:
    """Return a U-Net of one convolution a level, whose batch norms fold away at export.

    ``first_stride`` 2 never computes at full resolution, which is fastest; 1 does, which pays where
    structures are a few voxels thick.
    """
    return UNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=classes,
        channels=list(channels),
        strides=[first_stride] + [2] * (len(channels) - 2),
        num_res_units=0,
        act="relu",
        norm="batch",
    )
