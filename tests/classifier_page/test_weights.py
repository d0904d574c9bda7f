"""Weights in 8 bits: a quarter of the size, and an error that their scales bound."""

import numpy as np
import pytest

from vit_finetune.classifier_page.weights import to_int8

RNG = np.random.default_rng(0)
# output channels of very different sizes, the last one all zeros: each needs its own scale
SIZES = np.array([1e-3, 1, 1e3, 0], dtype=np.float32)
FILTERS = RNG.normal(size=(4, 3, 2, 2)).astype(np.float32) * SIZES[:, None, None, None]
PRODUCT = RNG.normal(size=(6, 4)).astype(np.float32) * SIZES
TRANSPOSED = np.ascontiguousarray(PRODUCT.T)
INPUTS = {
    "Conv": RNG.normal(size=(1, 3, 5, 5)).astype(np.float32),
    "Gemm": RNG.normal(size=(5, 6)).astype(np.float32),
    "MatMul": RNG.normal(size=(1, 5, 6)).astype(np.float32),
}


def model_of(kind, weights, **attributes):
    """A graph of one node, `x` -> `y`."""
    onnx = pytest.importorskip("onnx")
    helper = onnx.helper
    node = helper.make_node(kind, ["x", "w"], ["y"], **attributes)
    given = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, INPUTS[kind].shape)
    result = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    stored = [onnx.numpy_helper.from_array(weights, "w")]
    graph = helper.make_graph([node], "graph", [given], [result], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def result_of(model, kind):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(model.SerializeToString())
    return session.run(None, {"x": INPUTS[kind]})[0]


@pytest.mark.parametrize(
    ("kind", "weights", "attributes", "channel_axis"),
    [
        ("Conv", FILTERS, {}, 1),
        ("Gemm", PRODUCT, {}, 1),
        ("Gemm", TRANSPOSED, {"transB": 1}, 1),
        ("MatMul", PRODUCT, {}, 2),
        ("MatMul", PRODUCT[None], {}, 2),
    ],
)
def test_each_output_channel_is_exact_to_a_step_of_its_own_scale(
    kind, weights, attributes, channel_axis
):
    model = model_of(kind, weights, **attributes)
    exact = result_of(model, kind)
    to_int8(model.graph)
    found = result_of(model, kind)
    # half a step, 1/254 of the largest weight, times at most 12 inputs of at most 4; and rounding
    largest = np.abs(FILTERS).max(axis=(1, 2, 3)) if kind == "Conv" else np.abs(PRODUCT).max(axis=0)
    difference = np.moveaxis(np.abs(found - exact), channel_axis, -1)
    assert (difference <= largest / 254 * 12 * 4 + 1e-6).all()
    assert difference.max() > 0
    levels, scales = model.graph.initializer
    assert len(levels.raw_data) == weights.size
    assert np.abs(np.frombuffer(levels.raw_data, np.int8)).max() == 127
    assert scales.dims == [4]


def test_what_is_no_weight_of_a_product_stays_as_it_is():
    onnx = pytest.importorskip("onnx")
    model = model_of("MatMul", PRODUCT)
    model.graph.node.append(onnx.helper.make_node("Add", ["y", "b"], ["z"]))
    bias = onnx.numpy_helper.from_array(SIZES, "b")
    model.graph.initializer.append(bias)
    to_int8(model.graph)
    assert bias in model.graph.initializer
