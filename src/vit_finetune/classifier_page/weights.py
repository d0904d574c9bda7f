"""The weights of an ONNX graph in 8 bits."""

from typing import Any

import numpy as np


def to_int8(graph: Any) -> None:
    """Store the weights of matrix products and convolutions in 8 bits, in place.

    Each output channel has its own scale, its largest absolute weight / 127. The graph multiplies
    with it before it computes (DequantizeLinear), in float32 as before.

    Args:
        graph: onnx.GraphProto.
    """
    from onnx import helper, numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for name, axis in output_axes(graph).items():
        weights = numpy_helper.to_array(tensors[name])
        others = tuple(number for number in range(weights.ndim) if number != axis)
        largest = np.abs(weights).max(axis=others, keepdims=True)
        scale = np.where(largest > 0, largest, 1) / np.float32(127)
        levels = np.rint(weights / scale).astype(np.int8)
        tensors[name].CopyFrom(numpy_helper.from_array(levels, f"{name}_int8"))
        graph.initializer.append(numpy_helper.from_array(scale.ravel(), f"{name}_scale"))
        inputs = [f"{name}_int8", f"{name}_scale"]
        graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [name], axis=axis))


def output_axes(graph: Any) -> dict[str, int]:
    """Name of each weight of a matrix product or convolution -> its axis of output channels."""
    dimensions = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    axes = {}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in dimensions:
            continue
        transposed = any(field.name == "transB" and field.i for field in node.attribute)
        first = node.op_type == "Conv" or transposed
        axes[node.input[1]] = 0 if first else dimensions[node.input[1]] - 1
    return axes
