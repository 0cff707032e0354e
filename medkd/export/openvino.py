"""OpenVINO: an exported network in OpenVINO's own format, in fp32 or quantised to int8.

Quantisation takes the ranges of weights and activations from windows of training cases; NNCF can
then correct the bias that rounding brings (Banner et al. 2019, arXiv 1810.05723).
"""

import contextlib
import io
import logging
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path

import numpy as np

from medkd.config import Config
from medkd.data.loaders import PatchDataset
from medkd.data.samples import load_samples
from medkd.device.engine import apart, core, openvino
from medkd.extras import require
from medkd.options import AugmentOptions
from medkd.seeding import derive_seed
from medkd.types import Case

WEIGHTS = "model.xml"  # beside model.bin


class Bias(StrEnum):
    """How the bias that rounding brings is corrected."""

    FAST = "bias corrected in all layers at once"  # seconds
    THOROUGH = "bias corrected layer by layer"  # through the network: minutes
    KEPT = "bias kept"  # of a network that was trained as if it were quantised


def export_openvino(onnx: Path, path: Path) -> None:
    """Write an ONNX file as OpenVINO's ``.xml`` and ``.bin``, in fp32."""
    openvino().save_model(core().read_model(onnx), path, compress_to_fp16=False)


def quantise(onnx: Path, path: Path, windows: Sequence[np.ndarray], *, bias: Bias) -> None:
    """Write an ONNX file as OpenVINO's ``.xml`` and ``.bin``, in int8.

    Args:
        onnx: the network in fp32.
        path: the ``.xml`` to write.
        windows: ``[1, channels, *window]``, what the network will be shown.
        bias: how it is corrected.
    """
    ov = openvino()
    nncf = require("nncf", extra="train")
    nncf.set_log_level(logging.ERROR)
    with contextlib.redirect_stdout(io.StringIO()):  # its bars and tables
        quantised = apart(  # it loads plugins of its own
            nncf.quantize,
            core().read_model(onnx),
            nncf.Dataset(windows),
            preset=nncf.QuantizationPreset.MIXED,  # activations need not be symmetric
            subset_size=len(windows),
            fast_bias_correction=bias is not Bias.THOROUGH,
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                disable_bias_correction=bias is Bias.KEPT
            ),
        )
    ov.save_model(quantised, path, compress_to_fp16=False)


def calibration_windows(cases: Sequence[Case], config: Config) -> list[np.ndarray]:
    """Return a window of each of ``export.calibration_cases`` cases, as training cuts them.

    Args:
        cases: of the training split; those of validation and test must not shape a release.
        config: of the study.
    """
    rng = np.random.default_rng(derive_seed(config.study.seed, "calibration windows"))
    drawn = [cases[i] for i in rng.permutation(len(cases))[: config.export.calibration_cases]]
    plain = config.model_copy(update={"augment": AugmentOptions()})
    patches = PatchDataset(load_samples(drawn, plain), plain, options=config.student.train)
    return [patches[number]["image"].numpy()[None] for number in range(len(drawn))]
