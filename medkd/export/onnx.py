"""ONNX: a trained network becomes a file that ONNX Runtime runs, and is checked against it."""

import contextlib
import copy
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from medkd.device.engine import OnnxRuntime
from medkd.errors import ReleaseError
from medkd.export.phases import in_phases
from medkd.extras import require
from medkd.models.external import portable_graph
from medkd.models.graph import forget

OPSET = 20
CONVOLUTIONS: dict[type, type] = {
    nn.ConvTranspose2d: nn.Conv2d,
    nn.ConvTranspose3d: nn.Conv3d,
}
LOGIT_TOLERANCE = 1e-2  # of the largest logit; beyond it the export is wrong, not just rounded


def export_onnx(model: nn.Module, path: Path, *, shape: Sequence[int]) -> None:
    """Write ``model`` with a dynamic batch axis and a fixed window.

    The exporter folds batch norms into the convolutions before them, plain and transposed; see
    ``phases`` for what becomes of some. A network that came as an ONNX file is copied.

    Args:
        model: in evaluation mode.
        path: the file to write.
        shape: ``[channels, *window]``.
    """
    if (brought := portable_graph(model, shape)) is not None:
        require("onnx", extra="train").save(brought, str(path))
        return
    require("onnxscript", extra="train")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, we do not
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            without_idle_transposition(model.cpu().eval()),
            (torch.zeros(2, *shape),),
            dynamo=True,
            opset_version=OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=64)},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    exported = program.model_proto
    in_phases(exported)
    forget(exported)
    require("onnx", extra="train").save(exported, str(path))


def without_idle_transposition(model: nn.Module) -> nn.Module:
    """Return a network whose transposed convolutions of stride 1 are convolutions, answering alike.

    Such a layer moves nothing to a finer grid. ONNX Runtime unfolds all its products at once: at
    full resolution, as in the last layer of a U-Net, that was half of what a device needed in
    memory. A convolution is unfolded part by part.
    """
    if not any(map(_is_idle, model.modules())):
        return model
    model = copy.deepcopy(model)
    for parent in list(model.modules()):
        for name, layer in parent.named_children():
            if _is_idle(layer):
                setattr(parent, name, _convolution(layer))
    return model


def _is_idle(layer: Any) -> bool:  # noqa: ANN401
    return (
        type(layer) in CONVOLUTIONS
        and {*layer.stride} == {1}
        and {*layer.output_padding} == {0}
        and layer.groups == 1
        and min(_padding(layer)) >= 0
    )


def _padding(layer: Any) -> list[int]:  # noqa: ANN401
    of_axes = zip(layer.kernel_size, layer.dilation, layer.padding, strict=True)
    return [dilation * (size - 1) - padding for size, dilation, padding in of_axes]


def _convolution(layer: Any) -> nn.Module:  # noqa: ANN401
    made = CONVOLUTIONS[type(layer)](
        layer.in_channels,
        layer.out_channels,
        layer.kernel_size,
        padding=_padding(layer),
        dilation=layer.dilation,
        bias=layer.bias is not None,
    )
    axes = tuple(range(2, layer.weight.ndim))
    made.weight.data = layer.weight.data.flip(axes).transpose(0, 1).contiguous()
    if layer.bias is not None:
        made.bias.data = layer.bias.data
    return made.train(layer.training)


def verify_onnx(model: nn.Module, path: Path, *, shape: Sequence[int]) -> float:
    """Compare the file in ONNX Runtime with the network in torch, on noise, at batch 1 and 2.

    Returns:
        The largest difference of a logit, as a share of the largest logit (or of 1).

    Raises:
        ReleaseError: they differ by more than rounding.
    """
    engine = OnnxRuntime(path)
    inputs = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = model.cpu().eval()(inputs).float().numpy()
    actual = np.concatenate([engine(inputs[:1].numpy()), engine(inputs.numpy())[1:]])
    difference, size = float(np.abs(actual - expected).max()), float(np.abs(expected).max())
    if not difference <= LOGIT_TOLERANCE * max(size, 1):
        raise ReleaseError(
            f"{path}: ONNX Runtime's logits differ by {difference:.3g} from torch's (largest "
            f"{size:.3g}); the exported network is not the trained one"
        )
    return difference / max(size, 1)
