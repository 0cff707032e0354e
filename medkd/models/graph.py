"""Graph: a network that came as an ONNX file, asked through ONNX Runtime and released as a copy."""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medkd.errors import DataError
from medkd.extras import require
from medkd.models.activation import TINY, logits_of
from medkd.types import Activation

PASSING_ON = {"Identity", "Cast"}  # operations of ONNX that change no value
OPSET = 13  # from which on Softmax is over one axis
Step = tuple[str, np.ndarray | None, dict[str, int]]
INDICES = (6, 7, 9)  # ONNX's types of integers and truth values: shapes and axes, no weights


class OnnxNetwork(nn.Module):
    """An ONNX graph as a network without parameters; probabilities become logits."""

    def __init__(self, path: Path, activation: Activation = Activation.SOFTMAX) -> None:
        """Load the graph.

        Raises:
            DataError: ONNX Runtime cannot, or the graph has several inputs.
        """
        super().__init__()
        self.path, self._activation = path, activation
        self._ends_in_sigmoid = activation is Activation.SIGMOID and _ends_in_sigmoid(path)
        try:
            self._session = _session(str(path))
        except Exception as error:  # noqa: BLE001  ONNX Runtime's errors share no base class
            raise DataError(f"{path}: ONNX Runtime cannot load it ({error})") from None
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise DataError(f"{path}: {len(inputs)} inputs; a teacher takes the image alone")
        self._input, self._shape = inputs[0].name, inputs[0].shape

    def forward(self, image: Tensor) -> Tensor:
        """Return logits ``[batch, classes, *out]``.

        Raises:
            DataError: the graph does not take images of this shape.
        """
        fixed = isinstance(self._shape[0], int)  # the batch
        parts = image.split(self._shape[0]) if fixed else [image]
        try:
            answers = [
                self._session.run(None, {self._input: part.float().cpu().numpy()})[0]
                for part in parts
            ]
        except Exception as error:  # noqa: BLE001  ONNX Runtime's errors share no base class
            raise DataError(
                f"teacher.external: the ONNX network takes images of {self._shape}, not "
                f"{list(image.shape)} ({error})"
            ) from None
        said = torch.from_numpy(np.concatenate(answers)).to(image.device).float()
        return logits_of(said, self._activation) if self._is_probability(said) else said

    def _is_probability(self, said: Tensor) -> bool:
        if self._activation is Activation.SIGMOID:  # a few logits may lie between 0 and 1, too
            return self._ends_in_sigmoid
        return bool(said.min() >= 0 and ((said.sum(dim=1) - 1).abs() < 1e-3).all())

    def values(self) -> int:
        """Count the weights in the file."""
        weights = self._loaded().graph.initializer
        return sum(math.prod(w.dims) for w in weights if w.dims and w.data_type not in INDICES)

    def macs(self, shape: Sequence[int]) -> int:
        """Count multiply-accumulates of convolutions and matrices for an input of ``shape``.

        An operator whose shapes cannot be inferred is not counted.
        """
        onnx, model = require("onnx", extra="train"), self._loaded()
        _set_shape(model.graph.input[0], shape)
        del model.graph.value_info[:]
        last = model.graph.output[0]  # an output keeps its declared shape, other values do not
        model.graph.node.append(onnx.helper.make_node("Identity", [last.name], ["medkd_last"]))
        last.name = "medkd_last"
        last.type.tensor_type.ClearField("shape")
        graph = onnx.shape_inference.infer_shapes(model).graph
        shapes = {w.name: list(w.dims) for w in graph.initializer}
        for value in (*graph.input, *graph.value_info):
            shapes[value.name] = [d.dim_value for d in value.type.tensor_type.shape.dim]
        counted = [node for node in graph.node if node.op_type in COUNTED]
        known = [n for n in counted if {*n.input[:2], n.output[0]} <= shapes.keys()]
        return sum(COUNTED[node.op_type](node, shapes) for node in known)

    def portable(self, shape: Sequence[int], *, matrix: np.ndarray | None = None) -> Any:  # noqa: ANN401
        """Return a copy of the graph that a release can hold; None where there is none.

        It takes any number of windows at once, answers with logits and says nothing of whoever
        made it.

        Args:
            shape: ``[channels, *window]``.
            matrix: sorts its classes, as in ``Reordered``.
        """
        model = self._loaded()
        if all(o.version < OPSET for o in model.opset_import if o.domain in ("", "ai.onnx")):
            return None
        windows = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)).numpy()
        forget(model)
        _set_shape(model.graph.input[0], ["batch", *shape])
        if self._ends_in_sigmoid:
            model.graph.output[0].name = _last(model.graph).input[0]
        with contextlib.suppress(Exception):  # ONNX Runtime's errors share no base class
            session = _session(model.SerializeToString())
            said = torch.from_numpy(session.run(None, {self._input: windows})[0])
            _append(model, self._steps(said, matrix))
            _session(model.SerializeToString())
            return model
        return None

    def _steps(self, said: Tensor, matrix: np.ndarray | None) -> Iterator[Step]:
        """Name what follows the graph: an operator, what it takes beside the answer, attributes."""
        if self._activation is Activation.SIGMOID:
            if matrix is not None:
                yield "Gather", matrix.argmax(axis=1), {"axis": 1}
            return
        is_probability = self._is_probability(said)
        if matrix is not None:
            if not is_probability:
                yield "Softmax", None, {"axis": 1}
            weights = matrix.astype(np.float32)
            if said.ndim == 2:
                yield "MatMul", weights.T.copy(), {}
            else:
                yield "Conv", weights.reshape(*weights.shape, *[1] * (said.ndim - 2)), {}
        if is_probability or matrix is not None:
            yield "Clip", np.array(TINY, np.float32), {}
            yield "Log", None, {}

    def _loaded(self) -> Any:  # noqa: ANN401
        return require("onnx", extra="train").load(str(self.path))


def _session(model: str | bytes) -> Any:  # noqa: ANN401
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def weight_files(path: Path) -> list[Path]:
    """Return the files beside an ONNX graph that hold weights of it; none of what is no graph."""
    try:
        model = require("onnx", extra="train").load(path, load_external_data=False)
    except Exception:  # noqa: BLE001  protobuf's errors share no base class; it is refused when run
        return []
    said = [entry for weight in model.graph.initializer for entry in weight.external_data]
    return [path.parent / name for name in sorted({e.value for e in said if e.key == "location"})]


def _ends_in_sigmoid(path: Path) -> bool:
    """Whether the last operation of an ONNX graph is a sigmoid; of what is no graph it is none."""
    try:
        model = require("onnx", extra="train").load(path, load_external_data=False)
        return bool(_last(model.graph).op_type == "Sigmoid")
    except Exception:  # noqa: BLE001  ONNX Runtime says what is wrong with it
        return False


def _last(graph: Any) -> Any:  # noqa: ANN401
    """Return the last node of a graph that changes a value."""
    made_by = {name: node for node in graph.node for name in node.output}
    last = made_by[graph.output[0].name]
    while last.op_type in PASSING_ON:
        last = made_by[last.input[0]]
    return last


def forget(model: Any) -> None:  # noqa: ANN401
    """Leave out what the exporter wrote down beside the network, and all answers but the first.

    That has the paths of the source files, which name the users of the machine.
    """
    model.producer_name, model.producer_version, model.graph.name = "", "", "network"
    del model.metadata_props[:], model.graph.value_info[:], model.graph.output[1:]
    for described in (model, model.graph, *model.graph.node, *model.graph.initializer):
        described.doc_string = ""
        del described.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]


def _set_shape(value: Any, shape: Iterable[int | str]) -> None:  # noqa: ANN401
    dims = value.type.tensor_type.shape.dim
    for number, size in enumerate(shape):
        dim = dims[number]
        dim.Clear()
        setattr(dim, "dim_param" if isinstance(size, str) else "dim_value", size)


def _append(model: Any, steps: Iterable[Step]) -> None:  # noqa: ANN401
    """Make what the graph answers the logits of the study's classes."""
    onnx = require("onnx", extra="train")
    graph, answer = model.graph, model.graph.output[0].name
    kind = graph.output[0].type.tensor_type.elem_type
    for number, (operator, constant, attributes) in enumerate(steps):
        inputs, answer = [answer], f"medkd_{number}"
        if constant is not None:
            inputs.append(f"{answer}_constant")
            graph.initializer.append(onnx.numpy_helper.from_array(constant, inputs[1]))
        graph.node.append(onnx.helper.make_node(operator, inputs, [answer], **attributes))
    del graph.output[:]
    graph.output.append(onnx.helper.make_tensor_value_info(answer, kind, None))


def _convolution(node: Any, shapes: dict[str, list[int]]) -> int:  # noqa: ANN401
    batch, _, *space = shapes[node.output[0]]
    return batch * math.prod(space) * math.prod(shapes[node.input[1]])


def _transposed(node: Any, shapes: dict[str, list[int]]) -> int:  # noqa: ANN401
    batch, _, *space = shapes[node.input[0]]
    return batch * math.prod(space) * math.prod(shapes[node.input[1]])


def _matrix(node: Any, shapes: dict[str, list[int]]) -> int:  # noqa: ANN401
    return math.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1]


COUNTED: dict[str, Callable[[Any, dict[str, list[int]]], int]] = {
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "MatMul": _matrix,
    "Gemm": _matrix,
}
