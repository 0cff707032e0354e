"""Phases: a transposed convolution of few channels as a convolution, and a shuffle of its answer.

With a stride of 2, each voxel of the finer grid hears from some of a kernel's places alone, and
voxels at even places from others than those at odd ones: the grid falls into phases, 8 in 3D. Each
is a convolution of the coarser grid, all of them are one with 8 times the channels (Shi et al.
2016, arXiv 1609.07009), and the answer is the same but for rounding.

A processor computes 8 channels at once. The last layer of a U-Net has as many as there are classes:
three left most of that idle, and the layer took half of a light network's time. What is stored and
multiplied is more than before, by the places of a kernel that some phases do not hear from.
"""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import Any

import numpy as np

from medkd.extras import require

LANES = 8  # floats in a register of AVX2: a layer of as many channels or more stays as it is


def in_phases(model: Any) -> None:  # noqa: ANN401
    """Replace such layers of an ONNX model, in place.

    What stays: as many output channels as ``LANES``, groups, dilations, and layers whose output is
    not ``stride`` times as large as their input.
    """
    onnx = require("onnx", extra="train")
    graph = model.graph
    weights = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    shapes = _shapes(onnx.shape_inference.infer_shapes(model).graph)
    nodes, replaced = [], set()
    constants: dict[str, np.ndarray] = {}
    for node in graph.node:
        layer = _layer(onnx, node, weights, shapes) if node.op_type == "ConvTranspose" else None
        if layer is None:
            nodes.append(node)
            continue
        made, own = layer
        nodes += made
        constants |= own
        replaced |= set(node.input[1:])
    still = {name for node in nodes for name in node.input}
    kept = [each for each in graph.initializer if each.name not in replaced - still]
    made_of = [onnx.numpy_helper.from_array(array, name) for name, array in constants.items()]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept + made_of)


def _shapes(graph: Any) -> dict[str, list[int]]:  # noqa: ANN401
    """Return the spatial shape of every value that has one."""
    values = [*graph.input, *graph.value_info, *graph.output]
    return {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim][2:]
        for value in values
    }


def _layer(
    onnx: Any,  # noqa: ANN401
    node: Any,  # noqa: ANN401
    weights: dict[str, np.ndarray],
    shapes: dict[str, list[int]],
) -> tuple[list[Any], dict[str, np.ndarray]] | None:
    """Return the nodes that stand in for a layer, and their constants; None where it stays."""
    said = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    space = shapes.get(node.input[0])
    if any(name not in weights for name in node.input[1:]) or not space or not all(space):
        return None  # what is computed cannot be put in another order here
    kernel = weights[node.input[1]]
    ones = [1] * len(space)
    stride: list[int] = said.get("strides", ones)
    before: list[int] = said.get("pads", 2 * [0] * len(space))[: len(space)]
    into = [n * step for n, step in zip(space, stride, strict=True)]
    is_plain = said.get("group", 1) == 1 and said.get("dilations", ones) == ones
    if not is_plain or shapes.get(node.output[0]) != into or kernel.shape[1] >= LANES:
        return None
    phases, (first, last) = phased(kernel, stride=stride, before=before)
    classes, count = kernel.shape[1], prod(stride)
    bias = weights[node.input[2]] if len(node.input) > 2 else np.zeros(classes, kernel.dtype)
    name, axes = node.output[0], range(len(space))
    constants = {
        f"{name}_weight": phases.reshape(count * classes, *phases.shape[-len(space) - 1 :]),
        f"{name}_bias": np.tile(bias, count),
        f"{name}_apart": np.array([0, *stride, classes, *space]),
        f"{name}_together": np.array([0, classes, *into]),
    }
    convolved, apart, shuffled = (f"{name}_{what}" for what in ("convolved", "split", "shuffled"))
    order = [0, 1 + len(space), *(i for axis in axes for i in (2 + len(space) + axis, 1 + axis))]
    make = onnx.helper.make_node
    nodes = [
        make(
            "Conv",
            [node.input[0], f"{name}_weight", f"{name}_bias"],
            [convolved],
            kernel_shape=phases.shape[-len(space) :],
            pads=[*(-n for n in first), *last],
        ),
        make("Reshape", [convolved, f"{name}_apart"], [apart]),
        make("Transpose", [apart], [shuffled], perm=order),
        make("Reshape", [shuffled, f"{name}_together"], [name]),
    ]
    return nodes, constants


def phased(
    kernel: np.ndarray, *, stride: Sequence[int], before: Sequence[int]
) -> tuple[np.ndarray, tuple[list[int], list[int]]]:
    """Return the kernels of a transposed convolution's phases.

    A place ``o`` of the finer grid hears from ``i`` of the coarser through ``kernel[o + before -
    stride i]``. In phase r, where ``o = stride j + r``, those are the neighbours ``i - j`` for
    which that lies in the kernel.

    Args:
        kernel: ``[channels, classes, *size]``.
        stride: of each axis.
        before: padding at the start of each axis.

    Returns:
        ``[*stride, classes, channels, *reach]``, and the first and last neighbour of each axis.
    """
    heard = [  # of each axis: phase, neighbour, and place in the kernel
        [
            (r, d, r + b - s * d)
            for r in range(s)
            for d in range(-size, size + 1)
            if 0 <= r + b - s * d < size
        ]
        for s, b, size in zip(stride, before, kernel.shape[2:], strict=True)
    ]
    first = [min(0, *(d for _, d, _ in of_axis)) for of_axis in heard]
    last = [max(0, *(d for _, d, _ in of_axis)) for of_axis in heard]
    reach = [high - low + 1 for low, high in zip(first, last, strict=True)]
    phases = np.zeros((*stride, *kernel.shape[1::-1], *reach), kernel.dtype)
    for chosen in product(*heard):
        phase, neighbour, place = zip(*chosen, strict=True)
        tap = tuple(d - low for d, low in zip(neighbour, first, strict=True))
        phases[(*phase, slice(None), slice(None), *tap)] = kernel[(..., *place)].T
    return phases, (first, last)
