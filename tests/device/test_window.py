import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import nn

from medkd.device.window import (
    gaussian_weight,
    predict_slabs,
    predict_windows,
    window_corners,
)

NETWORKS = {
    dims: nn.Sequential(conv(2, 4, 3, padding=1), nn.ReLU(), conv(4, 3, 3, padding=1)).eval()
    for dims, conv in ((2, nn.Conv2d), (3, nn.Conv3d))
}


@torch.no_grad()
def answer(windows):
    return NETWORKS[windows.ndim - 2](torch.from_numpy(windows)).numpy()


@torch.no_grad()
def monai(image, window, overlap):
    return sliding_window_inference(
        torch.from_numpy(image)[None],
        roi_size=window,
        sw_batch_size=1,
        predictor=NETWORKS[image.ndim - 1],
        overlap=overlap,
        mode="gaussian",
    )[0].numpy()


def noise(shape):
    return np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((16, 16), (16, 16)),
        ((9, 5), (16, 16)),
        ((40, 33), (16, 16)),
        ((7, 50), (16, 12)),
        ((8, 8, 8), (8, 8, 8)),
        ((5, 6, 7), (8, 8, 8)),
        ((19, 12, 9), (8, 8, 8)),
        ((20, 3, 8), (8, 6, 4)),
    ],
)
def test_equals_monai(shape, window, overlap):
    image = noise(shape)
    actual = predict_windows(answer, image, window=window, overlap=overlap)
    assert actual.shape == (3, *shape)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, monai(image, window, overlap), atol=1e-5)


@settings(max_examples=25)
@given(
    st.integers(2, 3).flatmap(
        lambda dims: st.tuples(
            st.tuples(*[st.integers(1, 14)] * dims), st.tuples(*[st.integers(3, 9)] * dims)
        )
    ),
    st.sampled_from([0.0, 0.1, 0.3, 0.6]),
)
def test_equals_monai_for_any_sizes(sizes, overlap):
    shape, window = sizes
    image = noise(shape)
    actual = predict_windows(answer, image, window=window, overlap=overlap)
    np.testing.assert_allclose(actual, monai(image, window, overlap), atol=1e-5)


@pytest.mark.parametrize("at_once", [1, 3, 100])
def test_the_number_of_windows_at_once_does_not_matter(at_once):
    image = noise((20, 30))
    one = predict_windows(answer, image, window=(8, 8), overlap=0.5)
    many = predict_windows(answer, image, window=(8, 8), overlap=0.5, windows_at_once=at_once)
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_a_network_that_looks_at_one_voxel_answers_as_for_the_whole_image():
    image = noise((31, 17, 12))
    actual = predict_windows(np.tanh, image, window=(8, 8, 8), overlap=0.4)
    np.testing.assert_allclose(actual, np.tanh(image), atol=1e-5)


@given(
    st.tuples(*[st.integers(4, 60)] * 2), st.tuples(*[st.integers(1, 4)] * 2), st.floats(0, 0.95)
)
def test_windows_cover_the_image_and_stay_in_it(shape, window, overlap):
    seen = np.zeros(shape, int)
    corners = window_corners(shape, window, overlap)
    for place in corners:
        assert seen[place].shape == window
        seen[place] += 1
    assert seen.min() >= 1
    assert len({tuple(s.start for s in place) for place in corners}) == len(corners)


@pytest.mark.parametrize("window", [(8,), (5, 9), (8, 6, 4), (96, 96, 96)])
def test_the_weight_is_symmetric_largest_in_the_middle_and_never_zero(window):
    weight = gaussian_weight(window)
    np.testing.assert_allclose(weight, np.flip(weight), rtol=1e-5)
    assert weight.min() >= 1e-3
    assert weight.max() == weight[tuple(width // 2 for width in window)] <= 1


@pytest.mark.parametrize("windows_at_once", [1, 2, 4, 7])
@pytest.mark.parametrize("shape", [(30, 12, 9), (5, 20, 9), (8, 8, 8), (33, 7, 7)])
def test_slabs_come_in_order_and_together_are_the_whole(shape, windows_at_once):
    options = {"window": (8, 8, 8), "overlap": 0.5, "windows_at_once": windows_at_once}
    slabs = list(predict_slabs(answer, noise(shape), **options))
    stops = [0, *(rows.stop for rows, _ in slabs)]
    assert [rows.start for rows, _ in slabs] == stops[:-1]
    assert stops[-1] == shape[0]
    whole = np.concatenate([logits for _, logits in slabs], axis=1)
    np.testing.assert_allclose(whole, monai(noise(shape), (8, 8, 8), 0.5), atol=1e-5)


def test_memory_does_not_grow_with_the_number_of_rows():
    def peak(rows):
        image = np.zeros((1, rows, 32, 32), np.float32)
        classes = np.zeros((1, 20, 8, 32, 32), np.float32)
        tracemalloc.start()
        for _ in predict_slabs(lambda _: classes, image, window=(8, 32, 32), overlap=0.5):
            pass
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    assert peak(400) < 1.1 * peak(40)
