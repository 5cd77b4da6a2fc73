import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from quant_engine import analyze, load_quantized_model, quantize_model, save_quantized_model
from quant_engine.errors import DataError, UnsupportedLayerError
from quant_engine.execution.convert import convert_execution, list_executions
from quant_engine.execution.integer import KernelForm, why_not_integer
from quant_engine.execution.kernels.reference import LONGEST_SUM
from quant_engine.layers import QuantizedLinear, get_quantized_type
from quant_engine.layers.attention import run_side_by_side
from quant_engine.scheme import LayerScheme, TensorScheme
from quant_engine.tensors.affine import choose_dynamic_qparams, quantize
from tests.quant_engine.layer_cases import (
    LAYER_SCHEMES,
    fill,
    input_grid,
    layer_schemes,
    one_of_each,
    seeded,
)

DYNAMIC = LayerScheme(
    TensorScheme(granularity="per_channel"), TensorScheme(symmetric=False, is_dynamic=True)
)
SCHEMES = {
    **LAYER_SCHEMES,
    "dynamic": DYNAMIC,
    "dynamic_symmetric": LayerScheme(TensorScheme(symmetric=False), TensorScheme(is_dynamic=True)),
    "asymmetric_weights_only": LayerScheme(
        TensorScheme(symmetric=False, granularity="per_channel")
    ),
}

CASES = {
    **one_of_each(),
    "Linear of tokens": (fill(nn.Linear(7, 3, bias=False)), seeded((2, 5, 7))),
    "Linear of a vector": (fill(nn.Linear(7, 3)), seeded((7,))),
    "Linear of no rows": (fill(nn.Linear(7, 3)), seeded((0, 7))),
    "Linear of one term": (fill(nn.Linear(1, 5)), seeded((4, 1))),
    "Conv1d of one sample": (fill(nn.Conv1d(4, 6, 5, 2, "valid", 2)), seeded((4, 19))),
    "Conv2d of one sample": (fill(nn.Conv2d(3, 4, 3)), seeded((3, 6, 5))),
    "Conv2d of no samples": (fill(nn.Conv2d(3, 4, 3)), seeded((0, 3, 6, 5))),
    "Conv2d 7x7": (fill(nn.Conv2d(3, 8, 7, 2, 3)), seeded((1, 3, 21, 17))),
    "Conv2d depthwise": (
        fill(nn.Conv2d(4, 8, 3, padding="same", dilation=2, groups=4, padding_mode="reflect")),
        seeded((2, 4, 9, 8)),
    ),
    "ConvTranspose2d dilated": (
        fill(nn.ConvTranspose2d(4, 6, (3, 2), (2, 3), (1, 0), (1, 2), 2, True, (1, 2))),
        seeded((2, 4, 5, 5)),
    ),
    "ConvTranspose1d dilated": (
        fill(nn.ConvTranspose1d(4, 6, 3, 3, 2, 1, 2, True, 2)),
        seeded((2, 4, 6)),
    ),
    "ConvTranspose1d of one sample": (fill(nn.ConvTranspose1d(4, 6, 3, 2)), seeded((4, 6))),
    "Conv3d of one sample": (fill(nn.Conv3d(2, 3, 2)), seeded((2, 4, 5, 3))),
    "Conv3d dilated, same": (
        fill(nn.Conv3d(2, 3, (3, 5, 1), padding="same", dilation=(2, 1, 1))),
        seeded((2, 2, 6, 5, 4)),
    ),
    "Conv3d circular": (
        fill(nn.Conv3d(2, 3, 3, padding=(2, 1, 1), padding_mode="circular")),
        seeded((2, 2, 5, 4, 4)),
    ),
    "ConvTranspose2d cut": (fill(nn.ConvTranspose2d(4, 6, 3, 1, 2)), seeded((4, 5, 5))),
}

each_case = pytest.mark.parametrize("case", CASES)
each_scheme = pytest.mark.parametrize("scheme", SCHEMES)
each_kernel = pytest.mark.parametrize("kernel", ["auto", "portable"])


def quantized(module, x, scheme):
    activation = scheme.activation
    is_calibrated = activation is not None and not activation.is_dynamic and x.numel()
    grid = input_grid(x, scheme) if is_calibrated else None
    if activation is not None and not activation.is_dynamic and grid is None:
        grid = input_grid(torch.tensor([-1.0, 1.0]), scheme)
    return get_quantized_type(module).from_float(module, scheme, grid)


def assert_equal_to_rounding(layer, x, found, expected):
    """Within the error bound of a float32 sum: a few units of 2^-24 of the sum of magnitudes."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if not x.is_floating_point() or not found.numel():
        assert torch.equal(found, expected)
        return
    bias = None if layer.bias is None else layer.bias.abs()
    magnitude = layer.compute(layer.simulate_input(x).abs(), layer.dequantized_weight().abs(), bias)
    assert ((found - expected).abs() <= 32 * 2.0**-24 * magnitude + 1e-12).all()


@each_case
@each_scheme
@each_kernel
@torch.no_grad()
def test_integer_layers_equal_simulated_ones(case, scheme, kernel):
    module, x = CASES[case]
    layer = quantized(module, x, SCHEMES[scheme])
    integer = convert_execution(layer, kernel=kernel)
    assert_equal_to_rounding(layer, x, integer(x), layer(x))


@each_case
@each_kernel
@torch.no_grad()
def test_autocast_leaves_integer_layers_equal_to_simulated_ones(case, kernel):
    module, x = CASES[case]
    layer = quantized(module, x, SCHEMES["asymmetric"])
    expected = layer(x)
    integer = convert_execution(layer, kernel=kernel)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_equal_to_rounding(layer, x, integer(x), expected)
        assert torch.equal(layer(x), expected)


@torch.no_grad()
def test_autocast_leaves_layers_that_run_as_one_alone():
    x = seeded((4, 7))
    layers = [
        convert_execution(quantized(fill(nn.Linear(7, 3), seed), x, SCHEMES["weights_only"]))
        for seed in (1, 2)
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run_side_by_side(layers, (x, x))
    for layer, y in zip(layers, found, strict=True):
        assert torch.equal(y, layer(x))


@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")
@settings(max_examples=80)
@given(st.data())
@torch.no_grad()
def test_any_convolution_on_integers_equals_the_simulated_one(data):
    groups = data.draw(st.sampled_from([1, 2, 4]))
    kernel = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 4)))
    dilation = data.draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    mode = data.draw(st.sampled_from(["zeros", "reflect", "replicate", "circular"]))
    is_same = data.draw(st.booleans())
    stride = (1, 1) if is_same else data.draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = "same" if is_same else data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    inputs, outputs = (groups * data.draw(st.integers(1, 3)) for _ in range(2))
    module = fill(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, padding_mode=mode)
    )
    reach = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    size = [data.draw(st.integers(max(4, r), max(4, r) + 5)) for r in reach]
    x = seeded((data.draw(st.integers(1, 3)), inputs, *size))
    layer = quantized(module, x, data.draw(layer_schemes))
    assert_equal_to_rounding(layer, x, convert_execution(layer)(x), layer(x))


@settings(max_examples=60)
@given(st.data())
@torch.no_grad()
def test_any_transposed_convolution_on_integers_equals_the_simulated_one(data):
    groups = data.draw(st.sampled_from([1, 2]))
    kernel, stride, dilation = (
        data.draw(st.tuples(st.integers(1, n), st.integers(1, n))) for n in (4, 3, 2)
    )
    padding = data.draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    extra = tuple(
        data.draw(st.integers(0, max(s, d) - 1)) for s, d in zip(stride, dilation, strict=True)
    )
    module = fill(
        nn.ConvTranspose2d(
            2 * groups, 3 * groups, kernel, stride, padding, extra, groups, True, dilation
        )
    )
    x = seeded((2, 2 * groups, 6, 7))
    layer = quantized(module, x, data.draw(layer_schemes))
    assert_equal_to_rounding(layer, x, convert_execution(layer)(x), layer(x))


@torch.no_grad()
def test_an_output_size_is_heeded_on_integers_too():
    module = fill(nn.ConvTranspose2d(4, 6, 3, 2))
    x = seeded((2, 4, 5, 5))
    layer = quantized(module, x, SCHEMES["per_channel"])
    integer = convert_execution(layer)
    for size in ([11, 12], [12, 11], [11, 11]):
        assert integer(x, size).shape[2:] == torch.Size(size)
        assert torch.allclose(integer(x, size), layer(x, size), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@torch.no_grad()
def test_inputs_of_half_precision_give_outputs_of_half_precision(dtype):
    module, x = CASES["Conv2d"]
    layer = quantized(module, x, SCHEMES["per_channel"])
    integer = convert_execution(layer)
    assert integer(x.to(dtype)).dtype == dtype
    assert torch.allclose(integer(x.to(dtype)), layer(x.to(dtype)), atol=0.1)


@pytest.mark.parametrize("width", [6, LONGEST_SUM + 1])
@torch.no_grad()
def test_a_layer_whose_input_grid_was_never_set_says_that_its_input_stays_float(width):
    layer = QuantizedLinear(width, 2, scheme=LAYER_SCHEMES["asymmetric"])
    layer.quantize_weights()
    x = seeded((3, width))
    assert layer.scheme.has_calibrated_input
    assert not layer.rounds_input
    assert "input=float" in repr(layer)
    integer = convert_execution(layer)
    (found,) = list_executions(integer)
    assert (found.execution, found.kernel) == ("weights_only", "")
    assert_equal_to_rounding(layer, x, integer(x), layer(x))


@torch.no_grad()
def test_a_dynamic_range_is_that_of_each_batch():
    layer = quantized(*CASES["Linear"], DYNAMIC)
    integer = convert_execution(layer)
    for factor in (1.0, 100.0):
        x = CASES["Linear"][1] * factor
        lo, hi = min(float(x.min()), 0.0), max(float(x.max()), 0.0)
        assert float(choose_dynamic_qparams(x, layer.scheme.activation).scale) == pytest.approx(
            (hi - lo) / 255
        )
        assert_equal_to_rounding(layer, x, integer(x), layer(x))


@pytest.mark.parametrize("execution", ["simulated", "integer"])
def test_nan_in_a_dynamic_input_is_an_error(execution):
    module, x = CASES["Linear"]
    layer = convert_execution(quantized(module, x, DYNAMIC), execution)
    with pytest.raises(DataError, match="NaN"):
        layer(x.clone().fill_(float("nan")))


@torch.no_grad()
def test_codes_loaded_later_are_the_ones_that_run():
    module, x = CASES["Linear"]
    first = quantized(module, x, SCHEMES["per_channel"])
    second = quantized(fill(nn.Linear(6, 4), seed=5), x, SCHEMES["per_channel"])
    integer = convert_execution(first)
    integer(x)
    integer.load_state_dict(second.state_dict())
    assert torch.allclose(integer(x), second(x), atol=1e-5)


@torch.no_grad()
def test_a_changed_bias_is_the_one_that_runs():
    module, x = CASES["Linear"]
    integer = convert_execution(copy.deepcopy(quantized(module, x, SCHEMES["per_channel"])))
    before = integer(x)
    integer.bias.add_(1.0)
    assert torch.allclose(integer(x), before + 1.0)


@torch.no_grad()
def test_an_input_zero_point_changed_in_place_is_the_one_that_runs():
    module, x = CASES["Linear"]
    layer = quantized(module, x, SCHEMES["per_channel"])
    integer = convert_execution(copy.deepcopy(layer))
    integer(x)
    for changed in (layer, integer):
        changed.input_grid.zero_point.add_(5)
    assert_equal_to_rounding(layer, x, integer(x), layer(x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])  # noqa: S301
@torch.no_grad()
def test_a_copy_runs_on_integers_and_packs_for_itself(copied):
    module, x = CASES["Conv2d"]
    integer = convert_execution(quantized(module, x, SCHEMES["per_channel"]), kernel="portable")
    expected = integer(x)
    result = copied(integer)
    assert isinstance(result.integer_form, KernelForm)
    assert result.integer_form.kernel == "portable"
    assert torch.equal(result(x), expected)


@torch.no_grad()
def test_state_and_size_are_those_of_the_simulated_layer():
    module, x = CASES["Conv2d"]
    layer = quantized(module, x, SCHEMES["per_channel"])
    integer = convert_execution(layer)
    integer(x)
    assert integer.state_dict().keys() == layer.state_dict().keys()


def test_a_sum_too_long_for_int32_stays_simulated():
    module = nn.Linear(40_000, 2)
    x = torch.zeros(1, 40_000)
    layer = quantized(fill(module), x + 1, SCHEMES["per_tensor"])
    assert "40000 products" in why_not_integer(layer)
    integer = convert_execution(layer)
    entry = list_executions(integer)[0]
    assert entry.execution == "simulated"
    assert "int32" in entry.reason
    assert integer(x).shape == (1, 2)


@pytest.mark.parametrize("name", ["Conv1d", "Conv2d", "ConvTranspose2d", "Conv2d of one sample"])
@each_kernel
@torch.no_grad()
def test_results_are_laid_out_as_the_input_is(name, kernel):
    module, x = CASES[name]
    integer = convert_execution(quantized(module, x, SCHEMES["per_channel"]), kernel=kernel)
    assert integer(x).is_contiguous()
    if x.dim() == 4:
        y = integer(x.contiguous(memory_format=torch.channels_last))
        assert y.is_contiguous(memory_format=torch.channels_last)
        assert torch.allclose(y, integer(x), atol=1e-5)


@torch.no_grad()
def test_a_bias_rounded_by_half_is_the_one_that_runs():
    module, x = CASES["Linear"]
    layer = quantized(module, x, SCHEMES["per_channel"])
    integer = convert_execution(copy.deepcopy(layer))
    integer(x)
    assert torch.allclose(integer.half()(x), layer.half()(x), atol=1e-6)


@torch.no_grad()
def test_threads_may_ask_for_different_output_sizes():
    module = fill(nn.ConvTranspose2d(4, 6, 3, 2))
    x = seeded((4, 5, 5))
    integer = convert_execution(quantized(module, x, SCHEMES["per_channel"]), kernel="portable")
    sizes = [(11, 11), (11, 12), (12, 11), (12, 12)] * 100
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda size: integer(x, size).shape[1:], sizes))
    finally:
        sys.setswitchinterval(interval)
    assert found == [torch.Size(size) for size in sizes]


def test_a_float_layer_is_no_integer_layer():
    layer = QuantizedLinear(3, 2)
    assert why_not_integer(layer) == "Its weight is still float."
    with pytest.raises(UnsupportedLayerError, match="still float"):
        KernelForm().run_codes(layer, torch.zeros(1, 3, dtype=torch.uint8), None, None)


@pytest.mark.parametrize(
    "name", ["Conv3d", "Conv3d dilated, same", "ConvTranspose1d", "SameConv2d"]
)
@torch.no_grad()
def test_sums_are_those_of_exact_integers(name):
    """Codes multiplied and summed in float64, which holds them exactly, by torch."""
    module, x = CASES[name]
    layer = quantized(module, x, LAYER_SCHEMES["per_channel"])
    layer.bias = None
    grid, weights = layer.input_qparams, layer.weight_qparams
    codes = quantize(x, grid).double() - int(grid.zero_point)
    sums = layer.compute(codes, layer.quantized_weight.double(), None)
    scale = weights.scale.double().repeat(sums.shape[1] // len(weights.scale))
    expected = sums * scale.view(-1, *[1] * (x.dim() - 2)) * float(grid.scale)
    found = convert_execution(layer)(x)
    torch.testing.assert_close(found.double(), expected, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("name", ["Conv3d", "ConvTranspose1d", "SameConv2d", "EmbeddingBag"])
@torch.no_grad()
def test_a_model_of_it_goes_all_the_way(name, tmp_path):
    module, x = CASES[name]
    relu, head = nn.ReLU(), nn.Flatten()
    model = nn.Sequential(module, relu, head, fill(nn.Linear(module(x).flatten(1).shape[1], 3)))
    report = analyze(model, [x], measure_time=False)
    assert [layer.status for layer in report.layers] == ["quantized", "quantized"]
    assert report.output.error.nmse < 1e-3
    simulated = quantize_model(model, [x])
    expected = simulated(x)
    for found in (
        convert_execution(simulated)(x),
        convert_execution(simulated, lowered=True)(x),
    ):
        error = (found - expected).square().sum() / (expected - model(x)).square().sum()
        assert error < 0.02  # of the quantization error: a tie may fall the other way
    save_quantized_model(simulated, tmp_path)
    assert torch.equal(load_quantized_model(model, tmp_path)(x), expected)
