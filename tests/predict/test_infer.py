from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from medkd.config import Config
from medkd.device.window import predict_windows
from medkd.errors import TrainingError
from medkd.predict.infer import predict_logits
from tests.conftest import tiny_values


@pytest.fixture
def make_config(tmp_path):
    def make(*, dims=2, task="segmentation", **preprocess):
        values = tiny_values(tmp_path, dims=dims, task=task)
        values["preprocess"] |= preprocess
        return Config.model_validate(values)

    return make


@pytest.fixture
def network():
    """A network that flips do not commute with."""
    torch.manual_seed(0)
    return nn.Conv2d(1, 3, 3, padding=1).eval()


def image(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(1, *shape)).astype(np.float32)


def test_too_little_memory_names_the_knobs(make_config):
    class Large(nn.Module):
        def forward(self, image):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")

    with pytest.raises(TrainingError, match=r"16 x 16 .*out of memory \(CUDA.*lower preprocess\.w"):
        predict_logits(Large(), image(16, 16), make_config())


def test_one_window_is_a_plain_forward_pass(network, make_config):
    x = image(16, 16)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)[None]).log_softmax(1)[0]
    np.testing.assert_allclose(
        predict_logits(network, x, make_config()), expected.numpy(), atol=1e-5
    )


@pytest.mark.parametrize("shape", [(16, 16), (40, 21), (9, 30)])
def test_answers_what_the_device_answers(network, make_config, shape):
    def on_device(windows):
        with torch.no_grad():
            return network(torch.from_numpy(windows)).numpy()

    x, config = image(*shape), make_config(overlap=0.5)
    logits = predict_windows(on_device, x, window=config.preprocess.window, overlap=0.5)
    expected = torch.from_numpy(logits).log_softmax(0).numpy()
    actual = predict_logits(network, x, config)
    np.testing.assert_allclose(actual, expected, atol=1e-4)


@pytest.mark.parametrize("axes", [[0], [1], [0, 1]])
def test_flips_average_probabilities_over_all_their_combinations(network, make_config, axes):
    x, config = image(20, 24), make_config()
    views = []
    for chosen in product(*[(False, True)] * len(axes)):
        flipped = [axis + 1 for axis, flip in zip(axes, chosen, strict=True) if flip]
        view = predict_logits(network, np.flip(x, flipped).copy(), config)
        views.append(np.exp(np.flip(view, flipped)))
    actual = predict_logits(network, x, config, flip_axes=axes)
    np.testing.assert_allclose(np.exp(actual), np.mean(views, axis=0), atol=1e-5)


def test_flips_of_a_symmetric_network_change_nothing(make_config):
    x, config = image(16, 16), make_config()
    pointwise = nn.Conv2d(1, 3, 1).eval()
    np.testing.assert_allclose(
        predict_logits(pointwise, x, config, flip_axes=[0, 1]),
        predict_logits(pointwise, x, config),
        atol=1e-5,
    )


def test_classification_sees_the_whole_image(make_config):
    config = make_config(task="classification")
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 2)).eval()
    x = image(30, 20)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)[None]).log_softmax(1)[0]
    answer = predict_logits(network, x, config, flip_axes=[1])
    np.testing.assert_allclose(answer, expected.numpy(), atol=1e-5)


def test_volumes_keep_their_own_size(make_config):
    network = nn.Conv3d(1, 2, 1).eval()
    answer = predict_logits(network, image(10, 20, 17), make_config(dims=3))
    assert answer.shape == (2, 10, 20, 17)
    np.testing.assert_allclose(np.exp(answer).sum(axis=0), 1, rtol=1e-5)


def test_findings_are_logits_of_their_own_whose_probabilities_are_averaged(make_config):
    config = make_config(task="classification")
    data = {"overlapping": True, "labels": {"large": 1, "marked": 2}}
    config = config.model_copy(update={"data": config.data.model_copy(update=data)})
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveMaxPool2d(1), nn.Flatten()).eval()
    x = image(16, 16)
    with torch.no_grad():
        views = [network(torch.from_numpy(v.copy())[None])[0] for v in (x, x[..., ::-1])]
    np.testing.assert_allclose(predict_logits(network, x, config), views[0], atol=1e-5)
    mean = torch.stack(views).sigmoid().mean(0)
    answer = predict_logits(network, x, config, flip_axes=[1])
    np.testing.assert_allclose(torch.from_numpy(answer).sigmoid(), mean, atol=1e-5)
