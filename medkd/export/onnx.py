"""ONNX: a trained network becomes a file that ONNX Runtime runs, and is checked against it."""

import contextlib
import io
import logging
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medkd.device.engine import OnnxRuntime
from medkd.errors import ReleaseError
from medkd.extras import require

OPSET = 20
LOGIT_TOLERANCE = 1e-2  # of the largest logit; beyond it the export is wrong, not just rounded


def export_onnx(model: nn.Module, path: Path, *, shape: Sequence[int]) -> None:
    """Write ``model`` with a dynamic batch axis and a fixed window.

    The exporter folds batch norms into the convolutions before them, plain and transposed.

    Args:
        model: in evaluation mode.
        path: the file to write.
        shape: ``[channels, *window]``.
    """
    require("onnxscript", extra="train")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it misses torchvision, we do not
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own deprecations
        program = torch.onnx.export(
            model.cpu().eval(),
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
    program.save(path)


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
