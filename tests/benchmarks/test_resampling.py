"""Resampling to the network's spacing: numpy, as in ``preprocess``, against three libraries.

All place the first and last voxel centres alike and interpolate linearly; they take turns in one
run. SimpleITK is optional.
"""

import time
from importlib.util import find_spec

import numpy as np
import onnxruntime as ort  # noqa: TID253
import pytest
from onnx import TensorProto, helper  # noqa: TID253
from scipy import ndimage

from medkd.data.preprocess import preprocess
from medkd.options import PreprocessOptions
from medkd.types import Volume

ROUNDS, THREADS = 5, 2
VOLUMES = {  # shape and spacing in mm
    "brain MR": ((220, 220, 155), (0.9, 0.9, 1.2)),
    "thick slices": ((320, 320, 32), (0.7, 0.7, 5.0)),
    "CT, halved": ((384, 384, 96), (0.5, 0.5, 0.5)),
}
ONE_MM = PreprocessOptions(spacing_mm=(1, 1, 1), window=(48, 64, 48), intensity="unit")


def scipys(array, shape):
    steps = [(n - 1) / (t - 1) for n, t in zip(array.shape, shape, strict=True)]
    return lambda: ndimage.affine_transform(array, steps, output_shape=shape, order=1)


def onnx_resize(array, shape):
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in ("x", "y")]
    sizes = helper.make_tensor("sizes", TensorProto.INT64, [5], [1, 1, *shape])
    node = helper.make_node(
        "Resize",
        ["x", "", "", "sizes"],
        ["y"],
        mode="linear",
        coordinate_transformation_mode="align_corners",
    )
    graph = helper.make_graph([node], "resize", values[:1], values[1:], [sizes])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    options = ort.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = ort.InferenceSession(model.SerializeToString(), options)
    return lambda: session.run(None, {"x": np.ascontiguousarray(array)[None, None]})[0][0, 0]


def simpleitks(array, shape):
    import SimpleITK as sitk  # noqa: N813

    image = sitk.GetImageFromArray(array.T)  # its axes are the other way round
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(THREADS)
    steps = [(n - 1) / (t - 1) for n, t in zip(array.shape, shape, strict=True)]
    by = sitk.ResampleImageFilter()
    by.SetSize(shape)
    by.SetOutputSpacing(steps)
    by.SetInterpolator(sitk.sitkLinear)
    return lambda: sitk.GetArrayFromImage(by.Execute(image)).T


@pytest.mark.parametrize("name", VOLUMES)
def test_resampling(name):
    shape, spacing = VOLUMES[name]
    noise = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    array = np.asfortranarray(noise)  # as NIfTI lies in memory
    volume = Volume(array=array[None], affine=np.diag([*spacing, 1.0]))
    expected, grid = preprocess(volume, ONE_MM)
    ways = {
        "medkd": lambda: preprocess(volume, ONE_MM)[0][0],
        "scipy": scipys(array, grid.shape),
        "ONNX Resize": onnx_resize(array, grid.shape),
    }
    if find_spec("SimpleITK"):
        ways["SimpleITK"] = simpleitks(array, grid.shape)
    else:
        print("\nSimpleITK is not installed: it is left out")
    for way, resample in ways.items():  # within what float32 places can tell
        np.testing.assert_allclose(resample()[1:-1], expected[0, 1:-1], atol=0.02, err_msg=way)
    taken = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, resample in ways.items():
            start = time.perf_counter()
            resample()
            taken[way].append(1000 * (time.perf_counter() - start))
    own = float(np.median(taken["medkd"]))
    print(f"\n{name}, {shape} to {grid.shape}, medkd on one thread, ONNX on {THREADS}")
    for way, times in taken.items():
        print(f"  {way}: {np.median(times):.0f} ms, {np.median(times) / own:.2f} times medkd's")
