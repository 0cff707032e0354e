import json

import numpy as np
import pytest
import torch
from torch import nn

from medkd.config import load
from medkd.errors import ConfigError, DataError
from medkd.export.onnx import export_onnx
from medkd.models.checkpoint import Checkpoint, save_checkpoint
from medkd.models.external import Reordered, channel_matrix, open_external
from medkd.models.graph import OnnxNetwork
from medkd.models.zoo import build_model
from medkd.options import ExternalOptions, NamedOptions
from medkd.types import Activation, Task

CLASSES = ("background", "ball", "core")
MODEL = {"name": "plain_unet", "channels": [4, 8]}


@pytest.fixture(scope="module")
def config(make_config):
    return load(make_config(dims=2))


@pytest.fixture
def network():
    torch.manual_seed(0)
    return build_model(
        NamedOptions(**MODEL), task=Task.SEGMENTATION, in_channels=1, classes=3, spatial_dims=2
    ).eval()


@pytest.fixture
def image():
    return torch.randn(2, 1, 16, 16)


def options(kind, **more):
    return ExternalOptions(kind=kind, path="somewhere", **more)


def save(folder, network, **more):
    described = Checkpoint(
        model=MODEL, task=Task.SEGMENTATION, in_channels=1, classes=CLASSES, spatial_dims=2, **more
    )
    save_checkpoint(folder, network, described)
    return folder


def test_a_checkpoint_answers_and_names_what_it_knows(tmp_path, config, network, image):
    folder = save(tmp_path, network, patients=("patient-1",))
    opened = open_external(options("checkpoint"), folder, config)
    torch.testing.assert_close(opened.network(image), network(image))
    assert opened.classes == CLASSES
    assert opened.patients == ("patient-1",)


def test_a_checkpoint_for_other_preprocessing_is_refused(tmp_path, config, network):
    folder = save(tmp_path, network, preprocess={"intensity": "unit"})
    with pytest.raises(DataError, match=r"expects preprocess\.intensity: unit, the study has zsc"):
        open_external(options("checkpoint"), folder, config)


class TestOnnx:
    @pytest.fixture
    def path(self, tmp_path, network):
        export_onnx(network, tmp_path / "model.onnx", shape=(1, 16, 16))
        return tmp_path / "model.onnx"

    def test_it_answers_like_the_network(self, path, config, network, image):
        opened = open_external(options("onnx"), path, config)
        torch.testing.assert_close(opened.network(image), network(image), atol=1e-4, rtol=1e-4)

    def test_a_release_beside_it_says_what_it_expects(self, path, config):
        said = {"classes": CLASSES, "preprocess": {"channels": 1, "intensity": "unit"}}
        (path.parent / "manifest.json").write_text(json.dumps(said))
        with pytest.raises(DataError, match=r"expects preprocess\.intensity: unit"):
            open_external(options("onnx"), path, config)


class TestBundle:
    @pytest.fixture
    def bundle(self, tmp_path):
        """A bundle as MONAI lays it out, with a stock network."""
        definition = {
            "_target_": "monai.networks.nets.BasicUNet",
            "spatial_dims": 2,
            "in_channels": 1,
            "out_channels": 3,
            "features": [4, 4, 8, 8, 8, 4],
        }
        spacing = {"_target_": "Spacingd", "keys": "image", "pixdim": [1.0, 1.0]}
        for folder in ("configs", "models"):
            (tmp_path / folder).mkdir()
        inference = {"network_def": definition, "preprocessing": {"transforms": [spacing]}}
        (tmp_path / "configs/inference.json").write_text(json.dumps(inference))
        outputs = {"pred": {"channel_def": {"0": "background", "1": "core", "2": "ball"}}}
        metadata = {"network_data_format": {"outputs": outputs}}
        (tmp_path / "configs/metadata.json").write_text(json.dumps(metadata))
        from monai.networks.nets.basic_unet import BasicUNet

        torch.manual_seed(0)
        network = BasicUNet(2, 1, 3, features=(4, 4, 8, 8, 8, 4)).eval()
        torch.save(network.state_dict(), tmp_path / "models/model.pt")
        return tmp_path, network

    def test_it_is_not_opened_unless_it_is_trusted(self, bundle, config):
        with pytest.raises(ConfigError, match="can run any code on this machine"):
            open_external(options("bundle"), bundle[0], config)

    def test_it_answers_like_its_network_and_names_its_channels(self, bundle, make_config):
        path, network = bundle
        image = torch.randn(2, 1, 32, 32)
        config = load(make_config(dims=2), overrides=["preprocess.spacing_mm=[1, 1]"])
        opened = open_external(options("bundle", trust_bundle=True), path, config)
        torch.testing.assert_close(opened.network(image), network(image))
        assert opened.classes == ("background", "core", "ball")

    def test_another_spacing_is_refused(self, bundle, make_config):
        config = load(make_config(dims=2), overrides=["preprocess.spacing_mm=[2, 2]"])
        with pytest.raises(DataError, match=r"expects preprocess\.spacing_mm: \[1\.0, 1\.0\]"):
            open_external(options("bundle", trust_bundle=True), bundle[0], config)

    def test_a_spacing_that_its_config_works_out_is_compared_too(self, bundle, make_config):
        path, _ = bundle
        said = json.loads((path / "configs/inference.json").read_text())
        said |= {"spacing": [1.5, "@coarse"], "coarse": "$3 / 2"}
        said["preprocessing"]["transforms"][0]["pixdim"] = "@spacing"
        (path / "configs/inference.json").write_text(json.dumps(said))
        config = load(make_config(dims=2), overrides=["preprocess.spacing_mm=[1, 1]"])
        with pytest.raises(DataError, match=r"expects preprocess\.spacing_mm: \[1\.5, 1\.5\]"):
            open_external(options("bundle", trust_bundle=True), path, config)
        said["preprocessing"]["transforms"][0]["pixdim"] = ["@nowhere", 1]
        (path / "configs/inference.json").write_text(json.dumps(said))
        with pytest.raises(DataError, match="nowhere"):
            open_external(options("bundle", trust_bundle=True), path, config)

    def test_weights_that_hold_code_are_not_unpickled(self, bundle, make_config):
        path, _ = bundle
        torch.save({"a": print}, path / "models/model.pt")
        config = load(make_config(dims=2), overrides=["preprocess.spacing_mm=[1, 1]"])
        with pytest.raises(DataError, match="cannot be built and loaded"):
            open_external(options("bundle", trust_bundle=True), path, config)


class TestChannels:
    def test_another_order_is_sorted_by_name(self, config, network, image):
        matrix = channel_matrix(["Core", "background", "ball"], config)
        said = Reordered(network, matrix)(image).exp()
        torch.testing.assert_close(said, network(image).softmax(1)[:, [1, 2, 0]])

    def test_structures_that_the_study_lacks_are_background(self, config):
        matrix = channel_matrix(["background", "ball", "liver", "core"], config)
        np.testing.assert_array_equal(matrix, [[1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])

    def test_a_missing_class_is_refused(self, config):
        with pytest.raises(ConfigError, match="its channels are background, ball; the study's"):
            channel_matrix(["background", "ball"], config)


class TestOverlapping:
    """Structures that may overlap: a sigmoid over each channel, no background."""

    @pytest.fixture
    def config(self, make_config):
        return load(make_config(dims=2, overlapping=True))

    @pytest.fixture
    def network(self):
        torch.manual_seed(0)
        return build_model(
            NamedOptions(**MODEL), task=Task.SEGMENTATION, in_channels=1, classes=2, spatial_dims=2
        ).eval()

    def test_one_of_exclusive_classes_is_refused(self, tmp_path, config, make_config, network):
        folder = tmp_path / "theirs"
        described = Checkpoint(
            model=MODEL,
            task=Task.SEGMENTATION,
            in_channels=1,
            classes=("ball", "core"),
            spatial_dims=2,
            activation=Activation.SIGMOID,
        )
        save_checkpoint(folder, network, described)
        assert open_external(options("checkpoint"), folder, config).classes == ("ball", "core")
        with pytest.raises(DataError, match=r"trained for sigmoid, .* the study's softmax"):
            open_external(options("checkpoint"), folder, load(make_config(dims=2)))

    def test_probabilities_of_an_onnx_network_become_logits(self, tmp_path, network, image):
        path = tmp_path / "p.onnx"
        export_onnx(nn.Sequential(network, nn.Sigmoid()), path, shape=(1, 16, 16))
        said = OnnxNetwork(path, Activation.SIGMOID)(image)
        torch.testing.assert_close(said, network(image), atol=1e-3, rtol=1e-3)

    def test_channels_are_chosen_by_name_and_what_the_study_lacks_is_left_out(
        self, config, network, image
    ):
        matrix = channel_matrix(["Core", "ball"], config)
        said = Reordered(network, matrix, Activation.SIGMOID)(image)
        torch.testing.assert_close(said, network(image)[:, [1, 0]])
        matrix = channel_matrix(["background", "ball", "liver", "core"], config)
        np.testing.assert_array_equal(matrix, [[0, 1, 0, 0], [0, 0, 0, 1]])


def test_findings_that_the_study_lacks_are_left_out_and_classes_refused(make_config):
    findings = load(make_config(dims=2, task="classification", overlapping=True))
    matrix = channel_matrix(["nodule", "marked", "large"], findings)
    np.testing.assert_array_equal(matrix, [[0, 0, 1], [0, 1, 0]])
    with pytest.raises(ConfigError, match="list the channels in order under classes"):
        channel_matrix(["nodule", "large"], findings)
    classes = load(make_config(dims=2, task="classification"))
    with pytest.raises(ConfigError, match="list the channels in order under classes"):
        channel_matrix(["nodule", "small", "large"], classes)


def test_an_onnx_file_of_findings_answers_with_logits(tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    export_onnx(nn.Sequential(network, nn.Sigmoid()), tmp_path / "p.onnx", shape=(1, 16, 16))
    image = torch.randn(2, 1, 16, 16)
    opened = OnnxNetwork(tmp_path / "p.onnx", Activation.SIGMOID)
    torch.testing.assert_close(opened(image), network(image), atol=1e-3, rtol=1e-3)
    assert opened.portable((1, 16, 16), matrix=np.eye(3)[[2, 0]]) is not None
