import sys
from pathlib import Path

import numpy as np
import onnx  # noqa: TID253
import pytest
import torch
from torch import nn

from medkd.device.engine import OnnxRuntime
from medkd.distill.teacher import FrozenTeacher
from medkd.errors import ReleaseError
from medkd.export.onnx import export_onnx, verify_onnx, without_idle_transposition
from medkd.models.students import plain_unet
from medkd.types import Activation

SHAPE = (1, 16, 16, 16)


def unet(seed):
    """A student whose batch norms have seen data, so that folding them matters."""
    torch.manual_seed(seed)
    model = plain_unet(1, 3, 3, channels=[4, 8]).train()
    with torch.no_grad():
        model(3 * torch.randn(4, *SHAPE) + 1)
    return model.eval()


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "model.onnx"
    export_onnx(unet(0), path, shape=SHAPE)
    return path


def test_answers_what_torch_answers(exported):
    assert verify_onnx(unet(0), exported, shape=SHAPE) < 1e-4


def test_no_path_of_this_machine_is_in_it(exported):
    content = exported.read_bytes()
    for path in (sys.prefix, torch.__file__, str(Path(__file__).parents[2]), str(Path.home())):
        assert path.encode() not in content
    assert b"site-packages" not in content


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_takes_any_batch(exported, batch):
    windows = np.random.default_rng(0).normal(size=(batch, *SHAPE)).astype(np.float32)
    with torch.no_grad():
        expected = unet(0)(torch.from_numpy(windows)).numpy()
    np.testing.assert_allclose(OnnxRuntime(exported, threads=1)(windows), expected, atol=1e-3)


def test_no_batch_norm_of_a_student_is_left(exported):
    operations = {node.op_type for node in onnx.load(exported).graph.node}
    assert "Conv" in operations
    assert "BatchNormalization" not in operations


def test_is_one_file_that_names_its_ends(exported):
    graph = onnx.load(exported, load_external_data=False).graph
    assert [value.name for value in graph.input] == ["image"]
    assert [value.name for value in graph.output] == ["logits"]
    assert [path.name for path in exported.parent.iterdir()] == ["model.onnx"]


def test_other_weights_are_refused(exported):
    with pytest.raises(ReleaseError, match="the exported network is not the trained one"):
        verify_onnx(unet(1), exported, shape=SHAPE)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    model = nn.Conv3d(1, 2, 1)
    nn.init.constant_(model.weight, float("nan"))
    export_onnx(model, tmp_path / "model.onnx", shape=SHAPE)
    with pytest.raises(ReleaseError, match="differ by nan"):
        verify_onnx(model, tmp_path / "model.onnx", shape=SHAPE)


def test_an_ensemble_is_exported_with_its_temperatures(tmp_path):
    teacher = FrozenTeacher([unet(0), unet(1)], temperatures=[1.0, 3.0])
    export_onnx(teacher, tmp_path / "model.onnx", shape=SHAPE)
    assert verify_onnx(teacher, tmp_path / "model.onnx", shape=SHAPE) < 1e-4


@pytest.mark.parametrize("activation", list(Activation))
def test_an_ensemble_that_is_very_sure_is_exported_as_it_is(tmp_path, activation):
    members = [nn.Sequential(unet(seed), nn.BatchNorm3d(3)).eval() for seed in (0, 1)]
    for member in members:
        nn.init.constant_(member[1].weight, 40.0)  # the runtime rounds its probability to 0
    teacher = FrozenTeacher(members, temperatures=[1.0, 1.0], activation=activation)
    export_onnx(teacher, tmp_path / "model.onnx", shape=SHAPE)
    assert verify_onnx(teacher, tmp_path / "model.onnx", shape=SHAPE) < 1e-3


@pytest.mark.parametrize(
    "layer",
    [
        nn.ConvTranspose2d(3, 5, 3, padding=1),
        nn.ConvTranspose2d(3, 5, (2, 4), bias=False),
        nn.ConvTranspose3d(3, 5, (3, 1, 3), padding=(2, 0, 1), dilation=(2, 1, 1)),
    ],
)
def test_a_transposed_convolution_of_stride_1_answers_alike_as_a_convolution(layer):
    network = nn.Sequential(nn.ReLU(), nn.Sequential(layer)).eval()
    changed = without_idle_transposition(network)
    assert type(network[1][0]) is type(layer)  # what was given is left as it is
    assert "Transpose" not in type(changed[1][0]).__name__
    image = torch.randn(2, 3, *(7, 8, 9)[: layer.weight.ndim - 2])
    torch.testing.assert_close(changed(image), network(image), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("options", [{"stride": 2}, {"groups": 3}, {"padding": 3}])
def test_one_that_is_no_plain_convolution_stays(options):
    network = nn.Sequential(nn.ConvTranspose2d(3, 3, 3, **options))
    assert without_idle_transposition(network) is network


def test_a_unet_at_full_resolution_is_exported_without_one(tmp_path):
    model = plain_unet(1, 3, 3, channels=[8, 8, 8], first_stride=1).eval()
    export_onnx(model, tmp_path / "model.onnx", shape=SHAPE)
    verify_onnx(model, tmp_path / "model.onnx", shape=SHAPE)
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    strides = [
        [*a.ints]
        for n in nodes
        if n.op_type == "ConvTranspose"
        for a in n.attribute
        if a.name == "strides"
    ]
    assert strides == [[2, 2, 2]]
