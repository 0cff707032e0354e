"""Students: light networks, chosen for speed on a CPU."""

from collections.abc import Sequence
from typing import Any

from monai.networks.nets.basic_unet import BasicUNet
from monai.networks.nets.efficientnet import EfficientNetBN
from monai.networks.nets.flexible_unet import FlexibleUNet
from monai.networks.nets.unet import UNet
from torch import nn

from medkd.models.stock import altered, stock


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
    return stock(
        UNet,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=classes,
        channels=list(channels),
        strides=[first_stride] + [2] * (len(channels) - 2),
        num_res_units=0,
        act="relu",
        norm="batch",
    )


def separable_unet(
    in_channels: int,
    classes: int,
    spatial_dims: int,
    *,
    channels: Sequence[int] = (16, 32, 64, 128),
    first_stride: int = 2,
) -> nn.Module:
    """Return ``plain_unet`` with its convolutions split into depthwise and pointwise ones.

    A ninth of the multiplications in 2D and a twenty-seventh in 3D; whether that is faster is for
    the device to say (Chollet 2017, arXiv 1610.02357).
    """
    network = plain_unet(
        in_channels, classes, spatial_dims, channels=channels, first_stride=first_stride
    )
    _separate(network)
    return altered(network)


def _separate(module: nn.Module) -> None:
    """Replace in place every convolution that mixes channels and space at once."""
    for name, child in module.named_children():
        if isinstance(child, nn.Conv2d | nn.Conv3d) and _mixes(child):
            kind: Any = type(child)
            kept = {key: getattr(child, key) for key in ("kernel_size", "stride", "padding")}
            depthwise = kept | {"groups": child.in_channels}
            module.register_module(
                name,
                nn.Sequential(
                    kind(child.in_channels, child.in_channels, **depthwise, bias=False),
                    kind(child.in_channels, child.out_channels, kernel_size=1),
                ),
            )
        else:
            _separate(child)


def _mixes(convolution: nn.Conv2d | nn.Conv3d) -> bool:
    return convolution.in_channels > 1 and max(convolution.kernel_size) > 1


def basic_unet(
    in_channels: int,
    classes: int,
    spatial_dims: int,
    *,
    features: Sequence[int] = (8, 8, 16, 32, 64, 8),
) -> nn.Module:
    """Return a U-Net of five levels with two convolutions each; the last width is the head's."""
    return stock(
        BasicUNet,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=classes,
        features=list(features),
        norm="batch",
    )


def flexible_unet(
    in_channels: int,
    classes: int,
    spatial_dims: int,
    *,
    backbone: str = "efficientnet-b0",
    decoder_channels: Sequence[int] = (64, 32, 16, 16, 8),
) -> nn.Module:
    """Return a U-Net whose encoder is an EfficientNet, untrained."""
    network = FlexibleUNet(
        in_channels=in_channels,
        out_channels=classes,
        backbone=backbone,
        pretrained=False,
        decoder_channels=tuple(decoder_channels),
        spatial_dims=spatial_dims,
    )
    for unused in ("_conv_head", "_bn1", "_fc"):  # the classifier's, which would only weigh
        setattr(network.encoder, unused, nn.Identity())
    return network


def efficientnet(
    in_channels: int, classes: int, spatial_dims: int, *, variant: str = "efficientnet-b0"
) -> nn.Module:
    """Return an EfficientNet for classification, untrained."""
    return stock(
        EfficientNetBN,
        model_name=variant,
        pretrained=False,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        num_classes=classes,
    )
