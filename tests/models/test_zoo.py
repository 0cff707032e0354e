"""Every network of the zoo keeps the same promises."""

import pytest
import torch

from medkd.errors import ConfigError
from medkd.export.onnx import export_onnx, verify_onnx
from medkd.models.zoo import MODELS, build_model
from medkd.options import NamedOptions
from medkd.types import Task

# options that make the networks small enough for a test
SMALL = {
    "dynunet": {"filters": [4, 8, 8]},
    "segresnet": {"init_filters": 8},
    "plain_unet": {"channels": [4, 8]},
    "densenet": {"init_features": 8, "growth_rate": 4, "blocks": [1, 1]},
    "swin_unetr": {"feature_size": 12, "depths": [1, 1, 1, 1]},
    "mednext": {"init_filters": 4, "blocks": [1, 1, 1, 1]},
    "separable_unet": {"channels": [4, 8]},
    "basic_unet": {"features": [4, 4, 4, 4, 4, 4]},
    "flexible_unet": {"decoder_channels": [8, 8, 4, 4, 4]},
    "vit": {"patch_size": 8, "width": 16, "layers": 2},
    "resnet": {"widths": [4, 4, 8, 8], "blocks": [1, 1, 1, 1], "stem_stride": 1},
}
NETWORKS = [(task, name) for task in Task for name in MODELS[task]]
SIZES = {"swin_unetr": 64, "mednext": 32, "basic_unet": 32, "flexible_unet": 32, "efficientnet": 32}
HEAVY = {"swin_unetr"}  # in 3D, where a small one takes seconds
LONG = {"swin_unetr", "flexible_unet", "efficientnet", "mednext"}  # to export, even in 2D
CASES = [
    pytest.param(task, name, dims, marks=[pytest.mark.slow] if dims == 3 and name in HEAVY else [])
    for task, name in NETWORKS
    for dims in (2, 3)
]
EXPORTED = [
    pytest.param(task, name, dims, marks=[pytest.mark.slow] if dims == 3 or name in LONG else [])
    for task, name in NETWORKS
    for dims in (2, 3)
]


@pytest.fixture
def size(name):
    return SIZES.get(name, 16)


@pytest.fixture
def model(task, name, dims, size):
    torch.manual_seed(0)
    options = NamedOptions(name=name, **SMALL.get(name, {}))
    if name == "vit":
        options = NamedOptions(name=name, **SMALL[name], image_size=[size] * dims)
    return build_model(options, task=task, in_channels=2, classes=3, spatial_dims=dims)


@pytest.fixture
def image(dims, size):
    return torch.randn(2, 2, *[size] * dims, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("task", "name", "dims"), CASES)
class TestContract:
    def test_logits_have_the_size_of_the_image_or_one_row_an_image(
        self, model, image, task, dims, size
    ):
        space = [size] * dims if task is Task.SEGMENTATION else []
        assert model(image).shape == (2, 3, *space)

    def test_every_parameter_gets_a_gradient(self, model, image):
        model(image).square().sum().backward()
        assert [n for n, p in model.named_parameters() if p.grad is None] == []

    def test_an_answer_does_not_depend_on_the_rest_of_the_batch(self, model, image):
        model.eval()
        with torch.no_grad():
            torch.testing.assert_close(model(image)[:1], model(image[:1]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("task", "name", "dims"), EXPORTED)
@pytest.mark.usefixtures("task", "name")
def test_onnx_runtime_answers_the_same(model, tmp_path, dims, size):
    shape = (2, *[size] * dims)
    export_onnx(model.eval(), tmp_path / "model.onnx", shape=shape)
    assert verify_onnx(model, tmp_path / "model.onnx", shape=shape) < 1e-3


@pytest.mark.parametrize(("task", "name"), NETWORKS)
def test_the_defaults_build(task, name):
    build_model(NamedOptions(name=name), task=task, in_channels=1, classes=2, spatial_dims=2)


@pytest.mark.parametrize(("task", "name"), NETWORKS)
@pytest.mark.parametrize("option", ["depht", "classes"])
def test_an_unknown_option_is_refused(task, name, option):
    options = NamedOptions.model_validate({"name": name, option: 3})
    with pytest.raises(
        ConfigError, match=f"{task} model '{name}' has no option '{option}'; .*know"
    ):
        build_model(options, task=task, in_channels=1, classes=2, spatial_dims=2)


def test_a_network_of_another_task_is_unknown():
    with pytest.raises(ConfigError, match=r"unknown classification model 'dynunet'; .*resnet"):
        build_model(
            NamedOptions(name="dynunet"),
            task=Task.CLASSIFICATION,
            in_channels=1,
            classes=2,
            spatial_dims=2,
        )
