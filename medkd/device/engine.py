"""Engine: the network of a release, run by ONNX Runtime or OpenVINO."""

import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from medkd.environment import cores, cpu_flags
from medkd.errors import ReleaseError
from medkd.extras import installing, require
from medkd.types import Runtime

BF16 = {"avx512_bf16", "amx_bf16"}  # processor flags


T = TypeVar("T")

# from a batch of windows to logits, [batch, classes, *window] or [batch, classes]; refuses windows
# of another shape than the network's with a ReleaseError. What it returns is no longer valid once
# it is asked again: OpenVINO answers into the same memory
Engine = Callable[[np.ndarray], np.ndarray]


def open_engine(weights: Path, runtime: Runtime, *, threads: int | None = None) -> Engine:
    """Load a network.

    Args:
        weights: an ONNX file, or an OpenVINO ``.xml`` beside its ``.bin``; one input, one output.
        runtime: what computes it. ONNX Runtime reads ONNX alone.
        threads: all cores if None.

    Raises:
        ReleaseError: the runtime is not installed, or cannot load the file.
    """
    if runtime is Runtime.ONNXRUNTIME:
        return OnnxRuntime(weights, threads=threads)
    return OpenVino(weights, threads=threads, bf16=runtime is Runtime.OPENVINO_BF16)


def lacks(runtime: Runtime) -> str | None:
    """Return what this machine needs before it can use a runtime; None if nothing."""
    if runtime is Runtime.ONNXRUNTIME:
        return None
    if "openvino" not in sys.modules and find_spec("openvino") is None:
        return f"OpenVINO, which is not installed; {installing('openvino')}"
    if runtime is Runtime.OPENVINO_BF16 and not cpu_flags() & BF16:
        return "a processor that computes in bf16"
    return None


class OnnxRuntime:
    """An ``Engine`` by ONNX Runtime."""

    def __init__(self, weights: Path, *, threads: int | None = None) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or cores()
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
        """Return logits; see ``Engine``."""
        try:
            return self._session.run(None, {self._input: windows})[0]
        except Exception as error:  # noqa: BLE001  ONNX Runtime's errors share no base class
            raise _misfit(self._session.get_inputs()[0].shape, windows, error) from None


class OpenVino:
    """An ``Engine`` by OpenVINO; in fp32, or in bf16 (int8 stays int8 in both)."""

    def __init__(self, weights: Path, *, threads: int | None = None, bf16: bool = False) -> None:
        precision = "bf16" if bf16 else "f32"
        options = {"NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
        options["INFERENCE_NUM_THREADS"] = threads or cores()
        try:
            network = core().read_model(weights)
            _shuffle_at_once(network)
            self._network = core().compile_model(network, "CPU", options)
        except RuntimeError as error:
            raise ReleaseError(f"{weights}: OpenVINO cannot load it ({error})") from None

    def __call__(self, windows: np.ndarray) -> np.ndarray:
        """Return logits; see ``Engine``."""
        try:
            # a copy of full-size logits would take a seventh of a light network's time
            return self._network(windows, share_outputs=True)[0]
        except RuntimeError as error:
            raise _misfit(self._network.input(0).partial_shape, windows, error) from None


@cache
def core() -> Any:  # noqa: ANN401
    """Return OpenVINO's Core, one for as long as the process lives.

    Its CPU plugin gives the thread that loads it another signal stack, which goes when the plugin
    does. Plugins that go in another order than they came leave a thread with a stack that is gone,
    and the next signal kills the process. So there is one, and a thread of its own loads it.
    """
    return apart(_core_with_plugin)


def apart(function: Callable[..., T], *arguments: object, **options: object) -> T:
    """Call a function that loads plugins of OpenVINO, in a thread of its own; see ``core``."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(function, *arguments, **options).result()


def _core_with_plugin() -> Any:  # noqa: ANN401
    made = openvino().Core()
    made.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plugin
    return made


def openvino() -> ModuleType:
    """Import OpenVINO (or what is built on it) without its telemetry.

    On import it tells Google Analytics that it was, from a process of its own, unless the module
    that does so cannot be imported. Its documented switch is a file in the user's home.

    Raises:
        MissingExtraError: it is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return require("openvino", extra="openvino")


def _shuffle_at_once(network: Any) -> None:  # noqa: ANN401
    """Put the phases of a finer grid together (``export.phases``) by OpenVINO's own operation.

    ONNX has it for two axes alone, so a release splits the channels, transposes, and joins the
    axes, which takes three times as long.
    """
    operations = import_module("openvino.opset1")
    for transpose in network.get_ops():
        if transpose.get_type_name() != "Transpose":
            continue
        split = transpose.input_value(0).get_node()
        readers = [reader.get_node() for reader in transpose.output(0).get_target_inputs()]
        if [each.get_type_name() for each in (split, *readers)] != ["Reshape"] * 2:
            continue
        phases, joined = split.input_value(0), readers[0].output(0)
        if stride := _stride(phases, split.output(0), transpose.input_value(1), joined):
            shuffled = operations.depth_to_space(phases, "blocks_first", stride).output(0)
            for reader in joined.get_target_inputs():
                reader.replace_source_output(shuffled)


def _stride(phases: Any, split: Any, order: Any, joined: Any) -> int | None:  # noqa: ANN401
    """Return by how much phases are finer together, all axes alike; None if they are no phases."""
    shapes = [each.get_partial_shape() for each in (phases, split, joined)]
    if any(shape.rank.is_dynamic or len(shape) < 3 for shape in shapes):
        return None
    coarse, blocks, fine = (
        [axis.get_length() if axis.is_static else 0 for axis in shape][1:] for shape in shapes
    )
    dims, constant = len(coarse) - 1, order.get_node()
    if constant.get_type_name() != "Constant" or len(blocks) != 2 * dims + 1 or not all(blocks):
        return None
    turned = [0, 1 + dims, *(i for axis in range(dims) for i in (2 + dims + axis, 1 + axis))]
    stride, classes, space = blocks[0], blocks[dims], coarse[1:]
    is_shuffle = (
        constant.get_data().tolist() == turned
        and blocks == [*[stride] * dims, classes, *space]
        and fine == [classes, *(n * stride for n in space)]
    )
    return stride if is_shuffle else None


def _misfit(shape: object, windows: np.ndarray, error: Exception) -> ReleaseError:
    given = list(windows.shape)
    return ReleaseError(f"the network takes windows of {shape}, not {given} ({error})")
