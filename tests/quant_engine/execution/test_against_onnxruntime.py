"""Codes and integer sums against ONNX Runtime's own operators, which nobody here wrote."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from quant_engine.execution.kernels.codes import Grid
from quant_engine.execution.kernels.dispatch import make_convolution, make_linear
from quant_engine.execution.kernels.epilogue import Epilogue, IntegerWeights
from quant_engine.execution.kernels.geometry import Convolution
from quant_engine.scheme import TensorScheme
from quant_engine.tensors.affine import choose_qparams, quantize
from tests.quant_engine.strategies import tensors

TYPES = {
    np.dtype(np.float32): TensorProto.FLOAT,
    np.dtype(np.uint8): TensorProto.UINT8,
    np.dtype(np.int8): TensorProto.INT8,
    np.dtype(np.int32): TensorProto.INT32,
}
INPUT, OUTPUT = Grid(0.021, 131, 0, 255), Grid(0.17, 97, 0, 255)

each_kernel = pytest.mark.parametrize("kernel", ["auto", "portable"])


def run_operator(name, output_type, *inputs, **attributes):
    """One operator, run by ONNX Runtime on numpy arrays."""
    names = [f"i{number}" for number in range(len(inputs))]
    values = [
        helper.make_tensor_value_info(n, TYPES[x.dtype], x.shape)
        for n, x in zip(names, inputs, strict=True)
    ]
    shape = [f"d{axis}" for axis in range(inputs[0].ndim)]
    result = helper.make_tensor_value_info("y", output_type, shape)
    node = helper.make_node(name, names, ["y"], **attributes)
    graph = helper.make_graph([node], "one", values, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, dict(zip(names, inputs, strict=True)))
    return found


def number(value, dtype=np.float32):
    return np.array(value, dtype=dtype)


@settings(max_examples=40)
@given(tensors(limit=1e6), st.booleans())
def test_codes_and_zero_points_equal_quantize_linear(x, symmetric):
    qparams = choose_qparams(0.6 * x.min(), 0.6 * x.max(), TensorScheme(symmetric=symmetric))
    found = run_operator(
        "QuantizeLinear",
        TensorProto.INT8,
        x.numpy(),
        number(qparams.scale.item()),
        number(qparams.zero_point.item(), np.int8),
    )
    expected = torch.from_numpy(found).clamp(min=qparams.qmin)  # symmetric grids leave out -128
    difference = (quantize(x, qparams).int() - expected.int()).abs()
    # ONNX Runtime divides in float32 too; ties come out alike.
    assert difference.max() == 0


def test_a_zero_point_equals_that_of_dynamic_quantize_linear():
    x = torch.tensor([-1.3, 0.0, 2.9])
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    graph = helper.make_graph(
        [node],
        "dynamic",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3])],
        [
            helper.make_tensor_value_info("y", TensorProto.UINT8, [3]),
            helper.make_tensor_value_info("s", TensorProto.FLOAT, []),
            helper.make_tensor_value_info("z", TensorProto.UINT8, []),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    codes, scale, zero_point = session.run(None, {"x": x.numpy()})
    qparams = choose_qparams(x.min(), x.max(), TensorScheme(symmetric=False))
    assert float(qparams.scale) == pytest.approx(float(scale), rel=1e-6)
    assert int(qparams.zero_point) + 128 == int(zero_point)
    assert torch.equal(quantize(x, qparams).int() + 128, torch.from_numpy(codes).int())


def random_codes(rng, shape, dtype):
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)


def as_unsigned(weight):
    """The same weights on unsigned codes with zero point 128: on processors without VNNI, ONNX
    Runtime's kernels for signed weights let sums of two products overflow 16 bits."""
    return (weight.astype(np.int16) + 128).astype(np.uint8)


def assert_within_one_code(found, expected):
    """ONNX Runtime multiplies sums by one rounded factor s_x s_w / s_y, the kernels here by s_x s_w
    first: results next to a tie may round apart, by one code, seldom."""
    difference = np.abs(found.numpy().astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@each_kernel
@pytest.mark.parametrize(("rows", "terms", "columns"), [(1, 1, 1), (5, 17, 3), (64, 300, 33)])
def test_a_product_equals_qlinear_matmul(kernel, rows, terms, columns):
    rng = np.random.default_rng(rows)
    codes = random_codes(rng, (rows, terms), np.uint8)
    weight = random_codes(rng, (columns, terms), np.int8)
    scale = rng.uniform(0.001, 0.01, columns).astype(np.float32) / np.float32(np.sqrt(terms))
    expected = run_operator(
        "QLinearMatMul",
        TensorProto.UINT8,
        codes,
        number(INPUT.scale),
        number(INPUT.zero_point, np.uint8),
        np.ascontiguousarray(as_unsigned(weight).T),
        scale,
        np.full(columns, 128, dtype=np.uint8),
        number(OUTPUT.scale),
        number(OUTPUT.zero_point, np.uint8),
    )
    weights = IntegerWeights(torch.from_numpy(weight), torch.from_numpy(scale))
    found = make_linear(weights, kernel)(torch.from_numpy(codes), INPUT, Epilogue(output=OUTPUT))
    assert_within_one_code(found, expected)


@each_kernel
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("kernel_size", [1, 3, 5])
def test_a_convolution_equals_qlinear_conv(kernel, groups, stride, dilation, kernel_size):
    rng = np.random.default_rng(groups + 10 * stride)
    codes = random_codes(rng, (2, 8, 13, 12), np.uint8)
    weight = random_codes(rng, (12, 8 // groups, kernel_size, kernel_size), np.int8)
    scale = rng.uniform(0.0005, 0.001, 12).astype(np.float32)
    bias_codes = rng.integers(-5000, 5000, 12).astype(np.int32)
    padding = dilation * (kernel_size // 2)
    expected = run_operator(
        "QLinearConv",
        TensorProto.UINT8,
        codes,
        number(INPUT.scale),
        number(INPUT.zero_point, np.uint8),
        as_unsigned(weight),
        scale,
        np.full(12, 128, dtype=np.uint8),
        number(OUTPUT.scale),
        number(OUTPUT.zero_point, np.uint8),
        bias_codes,
        strides=[stride] * 2,
        dilations=[dilation] * 2,
        group=groups,
        pads=[padding] * 4,
    )
    bias = torch.from_numpy(bias_codes) * (torch.from_numpy(scale) * INPUT.scale)
    weights = IntegerWeights(torch.from_numpy(weight), torch.from_numpy(scale), None, bias)
    convolution = Convolution((stride,) * 2, (padding,) * 4, (dilation,) * 2, groups)
    found = make_convolution(weights, convolution, kernel)(
        torch.from_numpy(codes), INPUT, Epilogue(output=OUTPUT)
    )
    assert_within_one_code(found, expected)
