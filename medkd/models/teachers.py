"""Teachers: large networks, chosen for accuracy; all of them MONAI's."""

from collections.abc import Sequence

from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from torch import nn


def dynunet(
    in_channels: int,
    classes: int,
    spatial_dims: int,
    *,
    filters: Sequence[int] = (32, 64, 128, 256),
    norm: str = "instance",
) -> nn.Module:
    """Return nnU-Net's plain network: two convolutions a level, strided down, transposed up."""
    levels = len(filters)
    return DynUNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=classes,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(filters),
        norm_name=norm,
    )


def segresnet(
    in_channels: int, classes: int, spatial_dims: int, *, init_filters: int = 32
) -> nn.Module:
    """Return the residual encoder-decoder of Myronenko 2018."""
    return SegResNet(
        spatial_dims=spatial_dims,
        init_filters=init_filters,
        in_channels=in_channels,
        out_channels=classes,
    )


def densenet(
    in_channels: int,
    classes: int,
    spatial_dims: int,
    *,
    init_features: int = 64,
    growth_rate: int = 32,
    blocks: Sequence[int] = (6, 12, 24, 16),
) -> nn.Module:
    """Return a DenseNet; the defaults make DenseNet-121."""
    return DenseNet(
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=classes,
        init_features=init_features,
        growth_rate=growth_rate,
        block_config=tuple(blocks),
    )


def resnet(
    in_channels: int,
    classes: int,
    spatial_dims: int,
    *,
    widths: Sequence[int] = (64, 128, 256, 512),
    blocks: Sequence[int] = (2, 2, 2, 2),
    stem_stride: int = 2,
) -> nn.Module:
    """Return a residual network of basic blocks; the defaults make ResNet-18.

    Its batch norms fold into the convolutions at export. ``stem_stride`` 1 (and no pooling after
    it) suits images below 64 pixels.
    """
    from monai.networks.nets.resnet import ResNet

    return ResNet(
        block="basic",
        layers=list(blocks),
        block_inplanes=list(widths),
        spatial_dims=spatial_dims,
        n_input_channels=in_channels,
        conv1_t_size=7 if stem_stride > 1 else 3,
        conv1_t_stride=stem_stride,
        no_max_pool=stem_stride == 1,
        num_classes=classes,
    )
