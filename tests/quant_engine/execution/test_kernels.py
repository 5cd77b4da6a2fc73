import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quant_engine.errors import SchemeError
from quant_engine.execution.kernels import onednn, pooling, reference
from quant_engine.execution.kernels.codes import Grid, as_signed, from_codes, to_codes
from quant_engine.execution.kernels.dispatch import (
    list_kernels,
    make_convolution,
    make_linear,
    require_kernel,
)
from quant_engine.execution.kernels.epilogue import PLAIN, Epilogue, IntegerWeights, finish
from quant_engine.execution.kernels.float_sums import (
    FloatConvolution,
    FloatProduct,
    exact_pieces,
)
from quant_engine.execution.kernels.geometry import Convolution
from quant_engine.execution.kernels.pooling import max_pool_codes
from quant_engine.execution.kernels.reference import (
    ReferenceConvolution,
    ReferenceLinear,
    convolve_codes,
    multiply_aligned,
    multiply_codes,
)
from quant_engine.scheme import TensorScheme
from quant_engine.tensors.affine import QParams, choose_qparams, dequantize, quantize
from tests.quant_engine.strategies import bits, tensors

each_kernel = pytest.mark.parametrize("kernel", ["auto", "portable"])
pairs = st.tuples(st.integers(1, 3), st.integers(1, 3))


def codes_of(shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def weights_of(shape, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)


def exact_convolution(codes, zero_point, weight, convolution):
    """The sums in float64, which holds integers up to 2^53; padded by torch."""
    x = codes.double() - zero_point
    mode = "constant" if convolution.padding_mode == "zeros" else convolution.padding_mode
    x = F.pad(x, convolution.edges, mode=mode)
    stride, dilation = convolution.stride, convolution.dilation
    return F.conv2d(x, weight.double(), None, stride, 0, dilation, convolution.groups)


@pytest.mark.parametrize("terms", [1, 3, 64, 1023, 8192])
@pytest.mark.parametrize("a", [-128, 127])
@pytest.mark.parametrize("b", [-128, 127])
def test_products_of_the_largest_codes_are_summed_exactly(terms, a, b):
    left = torch.full((3, terms), a, dtype=torch.int8)
    right = torch.full((5, terms), b, dtype=torch.int8)
    right[1::2, ::2] = -right[1::2, ::2] - 1
    expected = left.long() @ right.long().T
    assert torch.equal(multiply_codes(left, right).long(), expected)
    assert torch.equal(multiply_aligned(left, right).long(), expected)
    unsigned = left.view(torch.uint8).bitwise_xor(128)
    assert torch.equal(FloatProduct(right)(unsigned, 128).long(), expected)


@pytest.mark.parametrize("zero_point", [0, 255])
@pytest.mark.parametrize("channels", [57, 58, 512])
def test_float_sums_are_cut_where_float32_no_longer_holds_them(channels, zero_point):
    weight = torch.full((2, channels, 3, 3), 127, dtype=torch.int8)
    weight[1, 5, 1, 1] = 126
    codes = torch.full((1, channels, 3, 3), 255 - zero_point, dtype=torch.uint8)
    sums = FloatConvolution(weight, Convolution())(codes, zero_point)
    expected = 127 * 255 * 9 * channels
    sign = -1 if zero_point else 1
    assert sums.flatten().tolist() == [sign * expected, sign * (expected - 255)]
    product = FloatProduct(weight.flatten(1))(codes.flatten(1), zero_point)
    assert product.tolist() == [sums.flatten().tolist()]
    assert len(exact_pieces(weight)) == {57: 1, 58: 2, 512: 9}[channels]


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 300), st.integers(0, 9))
def test_products_of_any_size_equal_int64(rows, columns, terms, seed):
    left, right = weights_of((rows, terms), seed), weights_of((columns, terms), seed + 1)
    expected = left.long() @ right.long().T
    found = multiply_codes(left, right)
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), expected)


@st.composite
def convolutions(draw):
    groups = draw(st.sampled_from([1, 2, 4]))
    inputs, outputs = (groups * draw(st.integers(1, 3)) for _ in range(2))
    kernel = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 3)))
    mode = draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    least = -1 if mode == "zeros" else 0
    edges = draw(st.tuples(*(st.integers(least, 2) for _ in range(4))))
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = [draw(st.integers(max(3, r + 2), max(3, r + 2) + 6)) for r in reach]
    convolution = Convolution(draw(pairs), edges, dilation, groups, mode)
    shape = (draw(st.integers(1, 3)), inputs, *size)
    return convolution, shape, (outputs, inputs // groups, *kernel), draw(st.integers(0, 255))


@settings(max_examples=150)
@given(convolutions(), st.integers(0, 9))
def test_every_convolution_equals_its_exact_sums(case, seed):
    convolution, shape, weight_shape, zero_point = case
    codes, weight = codes_of(shape, seed), weights_of(weight_shape, seed)
    exact = exact_convolution(codes, zero_point, weight, convolution)
    for sums in (
        convolve_codes(codes, zero_point, weight, convolution),
        FloatConvolution(weight, convolution)(codes, zero_point),
    ):
        assert torch.equal(sums.double(), exact)
    unit = IntegerWeights(weight, torch.ones(len(weight)))
    fused = make_convolution(unit, convolution)
    grid = Grid(1.0, zero_point, 0, 255)
    assert torch.equal(fused(codes, grid, PLAIN).double(), exact.float().double())


@settings(max_examples=60)
@given(convolutions(), st.integers(0, 9))
def test_weights_with_zero_points_lose_nothing(case, seed):
    convolution, shape, weight_shape, zero_point = case
    codes, weight = codes_of(shape, seed), weights_of(weight_shape, seed)
    points = weights_of((len(weight),), seed + 5).to(torch.int32)
    centred = weight.double() - points.view(-1, 1, 1, 1)
    exact = exact_convolution(codes, zero_point, centred, convolution)
    weights = IntegerWeights(weight, torch.ones(len(weight)), points)
    sums = ReferenceConvolution(weights, convolution).sums(codes, zero_point)
    assert torch.equal(sums.double(), exact)
    y = make_convolution(weights, convolution)(codes, Grid(1.0, zero_point, 0, 255), PLAIN)
    assert torch.equal(y.double(), exact.float().double())


def test_a_depthwise_sum_too_long_for_float32_is_still_exact():
    codes = torch.full((1, 2, 27, 27), 255, dtype=torch.uint8)
    weight = torch.full((2, 1, 27, 27), -128, dtype=torch.int8)
    weight[1, 0, 3, 3] = -127
    sums = FloatConvolution(weight, Convolution(groups=2))(codes, 0)
    assert sums.flatten().tolist() == [-128 * 255 * 729, -128 * 255 * 729 + 255]


@each_kernel
@pytest.mark.parametrize("has_points", [False, True])
def test_a_linear_layer_in_numbers_worked_by_hand(kernel, has_points):
    # Input 1.0 and -0.5 on a grid of step 0.5, weights 3 and -1 (2 and -2 about the zero point 1).
    points = torch.tensor([1], dtype=torch.int32) if has_points else None
    weights = IntegerWeights(
        torch.tensor([[3, -1]], dtype=torch.int8),
        torch.tensor([0.25]),
        points,
        torch.tensor([10.0]),
    )
    codes = torch.tensor([[12, 9]], dtype=torch.uint8)
    grid = Grid(0.5, 10, 0, 255)
    y = make_linear(weights, kernel)(codes, grid, PLAIN)
    # (2·3 + (-1)·(-1))·0.125 + 10 = 10.875; with zero points (2·2 + (-1)·(-2))·0.125 + 10 = 10.75
    assert y.tolist() == [[10.75 if has_points else 10.875]]


@each_kernel
@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "gelu_tanh", "relu6"])
@pytest.mark.parametrize("skip", ["nothing", "values", "codes"])
@pytest.mark.parametrize("output", [None, Grid(0.05, 120, 3, 250)], ids=["float", "codes"])
@pytest.mark.parametrize("kind", ["linear", "convolution"])
def test_what_follows_the_sums(kernel, activation, skip, output, kind):
    grid, skip_grid = Grid(0.02, 77, 0, 255), Grid(0.03, 5, 0, 255)
    generator = torch.Generator().manual_seed(3)
    scale = torch.rand(8, generator=generator) * 0.01
    bias = torch.randn(8, generator=generator)
    if kind == "linear":
        weights = IntegerWeights(weights_of((8, 16)), scale, None, bias)
        codes, operation = codes_of((12, 16)), make_linear(weights, kernel)
        exact = ReferenceLinear(weights).sums(codes, grid.zero_point).double()
        channel = (1, -1)
    else:
        weights = IntegerWeights(weights_of((8, 4, 3, 3)), scale, None, bias)
        convolution = Convolution(edges=(1, 1, 1, 1))
        codes, operation = codes_of((2, 4, 6, 5)), make_convolution(weights, convolution, kernel)
        exact = ReferenceConvolution(weights, convolution).sums(codes, 77).double()
        channel = (1, -1, 1, 1)
    y = exact * (scale.double() * grid.scale).view(channel) + bias.view(channel)
    added = codes_of(tuple(y.shape), seed=8)
    before = added.clone()
    epilogue = {
        "nothing": Epilogue(activation, output),
        "values": Epilogue(activation, output, from_codes(added, skip_grid)),
        "codes": Epilogue(activation, output, added, skip_grid),
    }[skip]
    if skip != "nothing":
        y = y + (added.double() - 5) * 0.03
    y = {
        "none": lambda v: v,
        "relu": F.relu,
        "relu6": F.relu6,
        "gelu": F.gelu,
        "gelu_tanh": lambda v: F.gelu(v, approximate="tanh"),
    }[activation](y)
    found = operation(codes, grid, epilogue)
    assert torch.equal(added, before)
    if output is None:
        assert found.dtype == torch.float32
        assert (found.double() - y).abs().max() < 1e-5
        return
    expected = ((y / output.scale).round() + output.zero_point).clamp(3, 250)
    assert found.dtype == torch.uint8
    assert (found.double() - expected).abs().max() <= 1
    assert (found.double() != expected).double().mean() < 0.01


@given(tensors(limit=1e6), bits, st.booleans())
def test_unsigned_codes_are_the_int8_codes(x, bits, symmetric):
    scheme = TensorScheme(bits=bits, symmetric=symmetric)
    qparams = choose_qparams(0.7 * x.min(), 0.7 * x.max(), scheme)
    codes = to_codes(x, qparams)
    assert torch.equal(as_signed(codes), quantize(x, qparams))
    assert torch.equal(
        from_codes(codes, Grid.of(qparams)), dequantize(quantize(x, qparams), qparams)
    )


@pytest.mark.parametrize("zero_point", [-128, -7, 0, 10, 127])
def test_values_between_two_codes_go_to_the_even_step(zero_point):
    steps = torch.arange(-300, 301) + 0.5
    qparams = QParams(torch.tensor(0.25), torch.tensor(zero_point, dtype=torch.int32), -128, 127)
    expected = (torch.tensor(np.rint(steps.numpy())) + zero_point).clamp(-128, 127)
    assert torch.equal(as_signed(to_codes(0.25 * steps, qparams)), expected.to(torch.int8))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_large_tensors_are_rounded_in_pieces_to_the_same_codes(layout):
    x = torch.randn((3, 7, 130, 101), generator=torch.Generator().manual_seed(0))
    x = x.contiguous(memory_format=layout)
    qparams = QParams(torch.tensor(0.013), torch.tensor(-9, dtype=torch.int32), -100, 90)
    for values in (x, x[:, :, 1:], x.transpose(1, 2)):
        assert torch.equal(as_signed(to_codes(values, qparams)), quantize(values, qparams))


def pooled(codes, pool):
    sizes = (pool.kernel_size, pool.stride, pool.padding, pool.dilation)
    pairs = [(size, size) if isinstance(size, int) else size for size in sizes]
    return max_pool_codes(codes, *pairs, pool.ceil_mode)


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(2),
        nn.MaxPool2d(3, 2, 1),
        nn.MaxPool2d((3, 2), (2, 1), (1, 0), dilation=(1, 2), ceil_mode=True),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [(2, 5, 40, 31), (3, 9, 8), (0, 2, 8, 8)])
def test_pooled_codes_are_codes_of_pooled_values(pool, shape):
    codes = codes_of(shape)
    if 0 in shape:
        assert pooled(codes, pool).shape[0] == 0
        return
    expected = pool(codes.float()).to(torch.uint8)
    assert torch.equal(pooled(codes, pool), expected)
    if codes.dim() == 4:
        laid_out = codes.contiguous(memory_format=torch.channels_last)
        assert torch.equal(pooled(laid_out, pool), expected)


def test_pooling_without_the_byte_kernel_gives_the_same(monkeypatch):
    monkeypatch.setattr(pooling, "_has_byte_kernel", lambda: False)
    codes = codes_of((2, 5, 40, 31)).contiguous(memory_format=torch.channels_last)
    pool = nn.MaxPool2d(3, 2, 1)
    assert torch.equal(pooled(codes, pool), pool(codes.float()).to(torch.uint8))


def test_without_the_fused_kernels_the_portable_ones_run(monkeypatch):
    monkeypatch.setattr(onednn, "is_available", lambda: False)
    assert list_kernels() == ("portable",)
    unit = IntegerWeights(weights_of((4, 3)), torch.ones(4))
    assert make_linear(unit).name == "portable"
    with pytest.raises(SchemeError, match="Available: portable"):
        require_kernel("onednn")


def test_an_unknown_kernel_is_refused():
    with pytest.raises(SchemeError, match="Did you mean 'onednn'"):
        require_kernel("onednm")


def test_a_shape_on_which_the_fused_convolution_is_wrong_runs_on_the_portable_one(monkeypatch):
    if "onednn" not in list_kernels():
        pytest.skip("no fused kernels here")
    unit = IntegerWeights(weights_of((4, 3, 3, 3)), torch.ones(4))
    operation = make_convolution(unit, Convolution())
    exact = operation(codes_of((1, 3, 6, 6)), Grid(1.0, 4, 0, 255), PLAIN)
    assert operation.name == "onednn"
    right = onednn.OnednnConvolution._run
    monkeypatch.setattr(onednn.OnednnConvolution, "_run", lambda *a: right(*a) + 1)
    broken = make_convolution(unit, Convolution())
    assert torch.equal(broken(codes_of((1, 3, 6, 6)), Grid(1.0, 4, 0, 255), PLAIN), exact)
    assert broken.name == "portable"


def test_sums_are_exact_where_int_mm_is_not(monkeypatch):
    monkeypatch.setattr(reference, "has_exact_int_mm", lambda device: False)
    left, right = weights_of((4, 5000)), weights_of((3, 5000), seed=2)
    assert torch.equal(multiply_codes(left, right).long(), left.long() @ right.long().T)


def test_finish_leaves_what_is_added_alone():
    skip = torch.tensor([[1.0]])
    finish(torch.tensor([[2.0]]), Epilogue("relu", None, skip))
    assert skip.item() == 1.0


def equals_exact_sums(operation, shape, zero_point, weight, convolution):
    codes = codes_of(shape)
    y = operation(codes, Grid(1.0, zero_point, 0, 255), PLAIN)
    exact = exact_convolution(codes, zero_point, weight, convolution)
    return torch.equal(y.double(), exact)


@pytest.mark.parametrize(
    ("shape", "weight_shape", "convolution"),
    [
        ((3, 2, 1, 3), (4, 1, 1, 1), Convolution((5, 5), (2, 2, 0, 0), (5, 5), 2)),
        ((1, 8, 4, 1), (8, 8, 1, 1), Convolution((4, 5), (4, 4, 3, 3), (1, 3))),
        ((5, 64, 1, 10), (33, 64, 2, 4), Convolution((1, 1), (4, 4, 1, 1), (2, 4))),
    ],
)
def test_windows_wholly_in_the_padding_are_not_left_to_the_fused_kernel(
    shape, weight_shape, convolution
):
    # On these the fused kernel ends the process.
    weight = weights_of(weight_shape)
    operation = make_convolution(IntegerWeights(weight, torch.ones(len(weight))), convolution)
    assert equals_exact_sums(operation, shape, 77, weight, convolution)
    assert operation.name == "portable"


def test_a_shape_is_checked_for_a_zero_point_of_zero_by_itself():
    # There another kernel runs, which is wrong on this shape.
    convolution, weight = Convolution((1, 4), dilation=(1, 4)), weights_of((1, 1, 1, 2))
    operation = make_convolution(IntegerWeights(weight, torch.ones(1)), convolution)
    for zero_point in (128, 0, 255, 0):
        assert equals_exact_sums(operation, (3, 1, 14, 7), zero_point, weight, convolution)


@pytest.mark.parametrize("output", [None, Grid(64.0, 9, 0, 255)])
@pytest.mark.parametrize("has_skip", [False, True])
@pytest.mark.parametrize("activation", ["none", "relu"])
def test_what_is_fused_is_checked_too(monkeypatch, output, has_skip, activation):
    if "onednn" not in list_kernels():
        pytest.skip("no fused kernels here")
    right = onednn.OnednnConvolution._run

    def wrong_where_fused(self, codes, grid, scale, bias, epilogue):
        y = right(self, codes, grid, scale, bias, epilogue)
        is_same = (epilogue.output is None) == (output is None)
        is_same &= (epilogue.skip is not None) == has_skip and epilogue.activation == activation
        return torch.full_like(y, 3) if is_same else y

    monkeypatch.setattr(onednn.OnednnConvolution, "_run", wrong_where_fused)
    weights = IntegerWeights(weights_of((4, 3, 3, 3)), torch.ones(4), None, torch.ones(4))
    operation = make_convolution(weights, Convolution())
    skip = codes_of((1, 4, 4, 4)) if output else codes_of((1, 4, 4, 4)).float()
    epilogue = Epilogue(activation, output)
    if has_skip:
        grid = Grid(2.0, 7, 0, 255) if output else None
        epilogue = Epilogue(activation, output, skip, grid)
    codes, grid = codes_of((1, 3, 6, 6)), Grid(1.0, 4, 0, 255)
    expected = ReferenceConvolution(weights, Convolution())(codes, grid, epilogue)
    assert torch.equal(operation(codes, grid, epilogue), expected)
    assert operation.name == "portable"


@each_kernel
def test_a_product_of_no_rows_takes_a_skip_of_none(kernel):
    operation = make_linear(IntegerWeights(weights_of((4, 3)), torch.ones(4)), kernel)
    y = operation(codes_of((0, 3)), Grid(1.0, 4, 0, 255), Epilogue(skip=torch.zeros(0, 4)))
    assert y.shape == (0, 4)


@pytest.mark.parametrize("size", [6, 600])
def test_tensors_with_gradients_are_rounded_too(size):
    x = torch.randn((size, size), generator=torch.Generator().manual_seed(0), requires_grad=True)
    qparams = QParams(torch.tensor(0.02), torch.tensor(3, dtype=torch.int32), -128, 127)
    assert torch.equal(as_signed(to_codes(x, qparams)), quantize(x.detach(), qparams))


@each_kernel
@pytest.mark.parametrize("scale", [1e-37, 1e33])
def test_scales_far_from_one_neither_overflow_nor_vanish(kernel, scale):
    codes, grid = codes_of((4, 6)), Grid(scale, 9, 0, 255)
    weights = IntegerWeights(weights_of((5, 6)), torch.full((5,), 1e-3))
    exact = (codes.double() - 9) @ weights.codes.double().t() * scale * 1e-3
    found = make_linear(weights, kernel)(codes, grid, PLAIN)
    assert torch.allclose(found.double(), exact, rtol=1e-4, atol=0)
    image = IntegerWeights(weights.codes.view(5, 6, 1, 1), weights.scale)
    found = make_convolution(image, Convolution(), kernel)(codes.view(4, 6, 1, 1), grid, PLAIN)
    assert torch.allclose(found.double().view(4, 5), exact, rtol=1e-4, atol=0)
