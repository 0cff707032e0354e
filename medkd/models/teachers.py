"""Teachers: large networks, chosen for accuracy; all of them MONAI's."""

from collections.abc import Sequence

from monai.networks.nets.densenet import DenseNet
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.segresnet import SegResNet
from torch import Tensor, nn

from medkd.extras import require
from medkd.models.stock import stock


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
    return stock(
        DynUNet,
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
    return stock(
        SegResNet,
        spatial_dims=spatial_dims,
        init_filters=init_filters,
        in_channels=in_channels,
        out_channels=classes,
    )


def swin_unetr(
    in_channels: int,
    classes: int,
    spatial_dims: int,
    *,
    feature_size: int = 48,
    depths: Sequence[int] = (2, 2, 2, 2),
    num_heads: Sequence[int] = (3, 6, 12, 24),
) -> nn.Module:
    """Return Swin UNETR; every axis of the window is a multiple of 32."""
    from monai.networks.nets.swin_unetr import SwinUNETR

    require("einops", extra="train")
    return stock(
        SwinUNETR,
        in_channels=in_channels,
        out_channels=classes,
        feature_size=feature_size,
        depths=list(depths),
        num_heads=list(num_heads),
        spatial_dims=spatial_dims,
    )


def mednext(
    in_channels: int,
    classes: int,
    spatial_dims: int,
    *,
    init_filters: int = 32,
    kernel_size: int = 3,
    expansion: int = 2,
    blocks: Sequence[int] = (2, 2, 2, 2),
) -> nn.Module:
    """Return MedNeXt (Roy et al. 2023); the defaults make its size S."""
    from monai.networks.nets.mednext import MedNeXt

    return stock(
        MedNeXt,
        spatial_dims=spatial_dims,
        init_filters=init_filters,
        in_channels=in_channels,
        out_channels=classes,
        encoder_expansion_ratio=expansion,
        decoder_expansion_ratio=expansion,
        bottleneck_expansion_ratio=expansion,
        kernel_size=kernel_size,
        use_residual_connection=True,
        blocks_down=list(blocks),
        blocks_bottleneck=blocks[-1],
        blocks_up=list(blocks[::-1]),
    )


def vit(
    in_channels: int,
    classes: int,
    spatial_dims: int,
    *,
    image_size: Sequence[int] = (224, 224),
    patch_size: int = 16,
    width: int = 768,
    layers: int = 12,
) -> nn.Module:
    """Return a vision transformer for images of one size; the defaults make ViT-B/16."""
    from monai.networks.nets.vit import ViT

    require("einops", extra="train")
    network = ViT(
        in_channels=in_channels,
        img_size=list(image_size),
        patch_size=patch_size,
        hidden_size=width,
        mlp_dim=4 * width,
        num_layers=layers,
        num_heads=max(1, width // 64),
        classification=True,
        num_classes=classes,
        spatial_dims=spatial_dims,
        post_activation="none",  # logits, not their tanh
    )
    for block in network.blocks:  # unused without a second image to attend to
        block.norm_cross_attn = nn.Identity()
    return First(network)


class First(nn.Module):
    """Keep the first of the tensors that a network returns."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Return logits."""
        return self.network(image)[0]


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
    return stock(
        DenseNet,
        spatial_dims=spatial_dims,
        in_channels=in_channels,
        out_channels=classes,
        init_features=init_features,
        growth_rate=growth_rate,
        block_config=list(blocks),
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

    return stock(
        ResNet,
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
