"""The defaults are the published networks, told by their numbers of parameters."""

import pytest

from medkd.models.teachers import densenet, resnet, vit


@pytest.mark.parametrize(
    ("build", "millions"),
    [(resnet, 11.69), (densenet, 7.98), (vit, 86.57)],
    ids=["ResNet-18", "DenseNet-121", "ViT-B/16"],
)
def test_the_defaults_have_the_size_of_the_published_network(build, millions):
    """In 2D, on three channels and 1000 classes: He 2016, Huang 2017, Dosovitskiy 2021."""
    count = sum(parameter.numel() for parameter in build(3, 1000, 2).parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05)
