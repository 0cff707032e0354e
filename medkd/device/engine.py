"""Engine: the network of a release, run by ONNX Runtime."""

import os
from pathlib import Path

import numpy as np

from medkd.errors import ReleaseError


class Engine:
    """Logits for batches of windows, on a fixed number of threads."""

    def __init__(self, weights: Path, *, threads: int | None = None) -> None:
        """Load the network.

        Args:
            weights: an ONNX file with one input and one output.
            threads: all cores if None.

        Raises:
            ReleaseError: ONNX Runtime cannot load the file.
        """
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or os.cpu_count() or 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        # a device shares its cores with other programs: waiting threads must sleep, not spin
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            self._session = ort.InferenceSession(
                str(weights), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # noqa: BLE001  ONNX Runtime's errors share no base class
            raise ReleaseError(f"{weights}: ONNX Runtime cannot load it ({error})") from None
        self._input = self._session.get_inputs()[0].name

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Return logits ``[batch, classes, *window]`` (or ``[batch, classes]``).

        Raises:
            ReleaseError: the network does not take windows of this shape.
        """
        try:
            return self._session.run(None, {self._input: windows})[0]
        except Exception as error:  # noqa: BLE001  ONNX Runtime's errors share no base class
            shape = self._session.get_inputs()[0].shape
            raise ReleaseError(
                f"the network takes windows of {shape}, not {list(windows.shape)} ({error})"
            ) from None
