"""What every quantized layer promises, whatever its kind."""

from __future__ import annotations

import copy
import inspect
import io

import pytest
import torch
from torch import Tensor, nn

from quant_engine import analyze, quantize_model
from quant_engine.errors import (
    DataError,
    NotCalibratedError,
    SchemeError,
    UnsupportedLayerError,
)
from quant_engine.execution.convert import list_executions
from quant_engine.layers import (
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConvTranspose2d,
    QuantizedEmbedding,
    QuantizedLayer,
    QuantizedLinear,
    get_quantized_type,
    is_quantizable,
    list_quantizable_types,
    register_quantized_layer,
    registry,
)
from quant_engine.layers.functional_weight import FunctionalWeight
from quant_engine.scheme import LayerScheme, TensorScheme
from quant_engine.tensors.affine import choose_qparams
from tests.quant_engine.layer_cases import (
    LAYER_SCHEMES,
    WEIGHTS_ONLY,
    WITH_INPUT,
    assert_rounded,
    expected,
    fill,
    one_of_each,
    quantized,
    seeded,
)

CASES = one_of_each()
each_case = pytest.mark.parametrize(("module", "x"), CASES.values(), ids=CASES)
each_scheme = pytest.mark.parametrize("scheme", LAYER_SCHEMES.values(), ids=LAYER_SCHEMES)


def saved_bytes(module: nn.Module) -> int:
    buffer = io.BytesIO()
    torch.save(module.state_dict(), buffer)
    return buffer.getbuffer().nbytes


def test_every_registered_type_has_a_case() -> None:
    called = set(list_quantizable_types()) - {FunctionalWeight}  # see test_functional_weight
    assert {kind.__name__ for kind in called} == set(CASES)


@each_scheme
@each_case
def test_layer_is_the_float_layer_on_rounded_values(
    module: nn.Module, x: Tensor, scheme: LayerScheme
) -> None:
    layer = quantized(module, x, scheme)

    assert torch.equal(layer(x), expected(module, layer, x))
    assert not torch.equal(layer(x), module(x))
    assert_rounded(module, layer)


@each_scheme
@each_case
def test_autocast_changes_no_number(module: nn.Module, x: Tensor, scheme: LayerScheme) -> None:
    layer = quantized(module, x, scheme)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)

    assert y.dtype == torch.float32
    assert torch.equal(y, expected(module, layer, x))


@each_case
def test_a_layer_of_half_precision_stays_one_under_autocast(module: nn.Module, x: Tensor) -> None:
    if not x.is_floating_point():
        return
    layer, x = quantized(module, x, WITH_INPUT), x.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)

    assert y.dtype == torch.bfloat16
    assert torch.equal(y, layer(x))


@each_case
def test_arguments_have_the_names_they_have_in_the_float_layer(
    module: nn.Module, x: Tensor
) -> None:
    layer = quantized(module, x, WITH_INPUT)
    names = [list(inspect.signature(m.forward).parameters) for m in (module, layer)]

    assert names[0] == names[1]
    assert torch.equal(layer(input=x), layer(x))


@each_case
def test_before_quantization_it_is_the_float_layer(module: nn.Module, x: Tensor) -> None:
    layer = get_quantized_type(module).like(module, WITH_INPUT)

    assert not layer.is_quantized
    assert torch.equal(layer(x), module(x))
    assert layer.weight is module.weight


@each_case
def test_float_module_is_not_changed(module: nn.Module, x: Tensor) -> None:
    before = {name: value.clone() for name, value in module.state_dict().items()}

    quantized(module, x, WITH_INPUT)(x)

    assert module.state_dict().keys() == before.keys()
    assert all(torch.equal(module.state_dict()[name], before[name]) for name in before)
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert "weight" in dict(module.named_parameters())


@each_case
def test_the_float_weight_is_gone(module: nn.Module, x: Tensor) -> None:
    layer = quantized(module, x, WITH_INPUT)

    assert "weight" not in dict(layer.named_parameters())
    assert "weight" not in layer.state_dict()
    assert {value.dtype for value in layer.buffers()} <= {torch.int8, torch.float32}
    weights = [value for value in layer.buffers() if value.shape == module.weight.shape]
    assert [value.dtype for value in weights] == [torch.int8]


def test_the_saved_layer_is_about_a_quarter() -> None:
    module = fill(nn.Linear(256, 256))

    layer = quantized(module, seeded((2, 256)), WITH_INPUT)

    assert saved_bytes(layer) < 0.3 * saved_bytes(module)


@each_case
def test_weight_reads_as_dequantized(module: nn.Module, x: Tensor) -> None:
    layer = quantized(module, x, WITH_INPUT)

    assert torch.equal(layer.weight, layer.dequantized_weight())
    assert layer.weight.shape == module.weight.shape


@each_scheme
@each_case
def test_copies_and_pickles_give_the_same_output(
    module: nn.Module, x: Tensor, scheme: LayerScheme
) -> None:
    layer = quantized(module, x, scheme)
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)

    for other in (copy.deepcopy(layer), torch.load(buffer, weights_only=False)):
        assert torch.equal(other(x), layer(x))
        assert other.scheme == layer.scheme
        assert other.quantized_weight is not layer.quantized_weight


@each_scheme
@each_case
def test_state_dict_goes_into_a_float_and_a_quantized_layer(
    module: nn.Module, x: Tensor, scheme: LayerScheme
) -> None:
    layer = quantized(module, x, scheme)
    other = fill(copy.deepcopy(module), seed=9)
    float_twin = get_quantized_type(module).like(other, scheme)
    quantized_twin = quantized(other, x, scheme)

    for twin in (float_twin, quantized_twin):
        assert not torch.equal(twin(x), layer(x))
        twin.load_state_dict(layer.state_dict())
        assert torch.equal(twin(x), layer(x))
        assert twin.is_quantized


@each_case
def test_a_float_state_dict_makes_the_layer_float_again(module: nn.Module, x: Tensor) -> None:
    layer = quantized(module, x, WITH_INPUT)

    layer.load_state_dict(module.state_dict())

    assert not layer.is_quantized
    assert layer.input_qparams is None
    assert torch.equal(layer(x), module(x))


def test_state_dict_of_another_size_is_refused() -> None:
    layer = QuantizedLinear(6, 4)
    other = QuantizedLinear(6, 5)
    other.quantize_weights()

    with pytest.raises(RuntimeError, match=r"size mismatch for stored_weight\.codes"):
        layer.load_state_dict(other.state_dict())


def test_state_dict_of_another_scheme_is_refused() -> None:
    asymmetric = LayerScheme(TensorScheme(symmetric=False, granularity="per_channel"))
    layer = QuantizedLinear(6, 4, scheme=WEIGHTS_ONLY)
    other = QuantizedLinear(6, 4, scheme=asymmetric)
    other.quantize_weights()

    with pytest.raises(RuntimeError, match=r"stored_weight\.zero_point"):
        layer.load_state_dict(other.state_dict())
    with pytest.raises(RuntimeError, match=r"size mismatch for stored_weight\.scale"):
        QuantizedLinear(6, 4, scheme=LayerScheme(TensorScheme(symmetric=False))).load_state_dict(
            other.state_dict()
        )


def test_input_grid_is_refused_where_the_scheme_keeps_inputs_float() -> None:
    other = quantized(fill(nn.Linear(6, 4)), seeded((3, 6)), WITH_INPUT)

    with pytest.raises(RuntimeError, match=r"input_grid\.scale"):
        QuantizedLinear(6, 4).load_state_dict(other.state_dict())
    grids = {key: value for key, value in other.state_dict().items() if "codes" not in key}
    with pytest.raises(RuntimeError, match=r"stored_weight\.scale"):
        QuantizedLinear(6, 4).load_state_dict(grids)


def test_the_quick_start_way_of_setting_weights() -> None:
    module = fill(nn.Linear(6, 4))
    layer = QuantizedLinear(6, 4, bias=True)

    layer.weight.data = module.weight.data.clone()
    layer.bias.data = module.bias.data.clone()
    layer.quantize_weights()

    assert layer.is_quantized
    assert_rounded(module, layer)
    x = seeded((3, 6))
    assert torch.equal(layer(x), expected(module, layer, x))


def test_quantizing_twice_changes_nothing() -> None:
    layer = QuantizedLinear(6, 4)
    layer.quantize_weights()
    codes = layer.quantized_weight

    layer.quantize_weights()

    assert layer.quantized_weight is codes


def test_a_new_weight_drops_the_codes() -> None:
    layer = QuantizedLinear(6, 4)
    layer.quantize_weights()
    weight = nn.Parameter(seeded((4, 6)))

    layer.weight = weight

    assert not layer.is_quantized
    assert layer.weight is weight
    layer.quantize_weights()
    assert_rounded(fill_with(weight), layer)


def fill_with(weight: nn.Parameter) -> nn.Linear:
    module = nn.Linear(weight.shape[1], weight.shape[0])
    module.weight = weight
    return module


def test_assigning_codes_none_shows_the_layer_as_float() -> None:
    layer = QuantizedLinear(6, 4)

    assert layer.quantized_weight is None
    assert layer.state_dict().keys() == {"weight", "bias"}
    with pytest.raises(NotCalibratedError, match="quantize_weights"):
        _ = layer.weight_qparams


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@each_case
def test_weights_that_are_no_numbers_are_refused(module: nn.Module, x: Tensor, bad: float) -> None:
    broken = copy.deepcopy(module)
    with torch.no_grad():
        broken.weight.view(-1)[-1] = bad
    layer = get_quantized_type(broken).like(broken, WEIGHTS_ONLY)

    with pytest.raises(DataError, match="NaN or Inf"):
        layer.quantize_weights()

    assert not layer.is_quantized
    assert layer.weight is broken.weight


def test_one_element_and_all_zero_channels_come_back_exactly() -> None:
    module = nn.Linear(1, 3, bias=False)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([[0.0], [-3.25], [1e-30]]))

    layer = QuantizedLinear.from_float(module, WEIGHTS_ONLY)

    torch.testing.assert_close(layer.weight, module.weight.detach(), rtol=1e-6, atol=0.0)
    assert layer(torch.zeros(2, 1)).abs().sum() == 0


def test_missing_input_range_is_said() -> None:
    with pytest.raises(NotCalibratedError, match="Linear quantizes its input"):
        QuantizedLinear.from_float(nn.Linear(2, 2), WITH_INPUT)


def test_input_grid_must_fit_the_scheme() -> None:
    layer = QuantizedLinear(2, 2, scheme=WITH_INPUT)
    one = torch.tensor(1.0)

    with pytest.raises(DataError, match="codes"):
        layer.set_input_qparams(choose_qparams(-one, one, TensorScheme(bits=4, symmetric=False)))
    with pytest.raises(DataError, match="single scale"):
        layer.set_input_qparams(
            choose_qparams(-torch.ones(2), torch.ones(2), TensorScheme(symmetric=False), axis=0)
        )
    with pytest.raises(DataError, match="activation=None"):
        QuantizedLinear(2, 2).set_input_qparams(choose_qparams(-one, one, TensorScheme()))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@each_case
def test_other_float_types_keep_their_type(
    module: nn.Module, x: Tensor, dtype: torch.dtype
) -> None:
    other = copy.deepcopy(module).to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x

    layer = quantized(other, x, WITH_INPUT)
    y = layer(x)

    assert y.dtype == dtype
    assert layer.weight.dtype == dtype
    plain = copy.deepcopy(other).float()
    plain_x = x.float() if x.is_floating_point() else x
    torch.testing.assert_close(y, expected(plain, layer, plain_x).to(dtype), rtol=0, atol=0)


@each_case
def test_converting_a_quantized_layer_keeps_its_grids(module: nn.Module, x: Tensor) -> None:
    layer = quantized(module, x, WITH_INPUT)
    grid = layer.weight_qparams.scale.clone()
    codes = layer.quantized_weight

    half = layer.half()
    assert module.weight.dtype == torch.float32
    assert getattr(module, "bias", None) is None or module.bias.dtype == torch.float32
    y = half(x.half() if x.is_floating_point() else x)

    assert torch.equal(half.weight_qparams.scale, grid)
    assert half.weight_qparams.scale.dtype == torch.float32
    assert half.quantized_weight is codes
    assert y.dtype == half.weight.dtype == torch.float16


@each_case
def test_mode_and_hooks_come_along(module: nn.Module, x: Tensor) -> None:
    module = copy.deepcopy(module).train()
    seen: list[str] = []
    module.register_forward_hook(lambda *_: seen.append("after"))
    module.register_forward_pre_hook(lambda *_: seen.append("before"))

    layer = quantized(module, x, WITH_INPUT)
    layer(x)

    assert layer.training
    assert not quantized(module.eval(), x, WITH_INPUT).training
    assert seen == ["before", "after"]


@pytest.mark.parametrize("kind", ["Linear", "Conv1d", "Conv2d", "ConvTranspose2d"])
def test_empty_batches_run(kind: str) -> None:
    module, x = CASES[kind]
    layer = quantized(module, x, WITH_INPUT)

    assert layer(x[:0]).shape == module(x[:0]).shape


@pytest.mark.parametrize("kind", ["Linear", "Conv1d", "Conv2d", "ConvTranspose2d"])
def test_strided_and_unbatched_inputs(kind: str) -> None:
    module, x = CASES[kind]
    layer = quantized(module, x, WITH_INPUT)
    strided = torch.stack([x, x], dim=-1)[..., 0]

    assert not strided.is_contiguous()
    torch.testing.assert_close(layer(strided), layer(x))
    torch.testing.assert_close(layer(x[0]), layer(x)[0])


def test_gradients_reach_the_layers_before() -> None:
    layer = quantized(fill(nn.Linear(6, 4)), seeded((3, 6)), WEIGHTS_ONLY)
    x = seeded((3, 6)).requires_grad_()

    layer(x).sum().backward()

    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(3, -1))


def test_scheme_shows_in_print() -> None:
    layer = quantized(fill(nn.Linear(6, 4)), seeded((3, 6)), LAYER_SCHEMES["four_bits"])

    assert repr(layer) == "QuantizedLinear(6, 4, weight=int4 per channel, input=int4)"
    assert repr(QuantizedLinear(6, 4)) == "QuantizedLinear(6, 4, weight=float, input=float)"


class TestSharing:
    def test_codes_are_one_tensor_and_stay_one_in_a_copy(self) -> None:
        weight = nn.Parameter(seeded((9, 5)))
        table, head = nn.Embedding(9, 5), nn.Linear(5, 9)
        table.weight = head.weight = weight
        first = QuantizedEmbedding.from_float(table, WEIGHTS_ONLY)
        second = QuantizedLinear.like(head, WEIGHTS_ONLY)

        second.share_codes(first)
        both = copy.deepcopy(nn.ModuleList([first, second]))

        assert second.quantized_weight is first.quantized_weight
        assert both[0].quantized_weight is both[1].quantized_weight
        x = seeded((2, 5))
        assert torch.equal(both[1](x), expected(head, second, x))

    def test_other_schemes_axes_and_shapes_are_refused(self) -> None:
        source = QuantizedConv2d(4, 4, 3)
        source.quantize_weights()

        with pytest.raises(SchemeError, match="cannot share"):
            QuantizedConvTranspose2d(4, 4, 3).share_codes(source)
        with pytest.raises(SchemeError, match="cannot share"):
            QuantizedConv2d(4, 4, 5).share_codes(source)
        with pytest.raises(SchemeError, match="cannot share"):
            QuantizedConv2d(4, 4, 3, scheme=LayerScheme(TensorScheme(bits=4))).share_codes(source)
        with pytest.raises(NotCalibratedError, match="still float"):
            source.share_codes(QuantizedConv2d(4, 4, 3))

    def test_one_scale_does_not_care_about_the_axis(self) -> None:
        scheme = LayerScheme(TensorScheme())
        source = QuantizedConv2d(4, 4, 3, scheme=scheme)
        source.quantize_weights()
        other = QuantizedConvTranspose2d(4, 4, 3, scheme=scheme)

        other.share_codes(source)

        assert other.quantized_weight is source.quantized_weight


class TestRegistry:
    def test_exact_types_only(self) -> None:
        class Scaled(nn.Linear):
            pass

        assert is_quantizable(nn.Linear(2, 2))
        assert not is_quantizable(Scaled(2, 2))
        with pytest.raises(UnsupportedLayerError, match=r"Scaled has no quantized form.*Conv2d"):
            get_quantized_type(Scaled(2, 2))

    def test_types(self) -> None:
        assert get_quantized_type(nn.Conv1d(1, 1, 1)) is QuantizedConv1d
        names = [kind.__name__ for kind in list_quantizable_types()]
        assert names == sorted([*CASES, "FunctionalWeight"])

    def test_the_base_is_no_layer(self) -> None:
        assert issubclass(QuantizedLinear, QuantizedLayer)

    def test_a_layer_of_the_callers_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Gated(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.weight, self.power = nn.Parameter(torch.empty(4, 6)), 2

            def forward(self, x: Tensor) -> Tensor:
                return torch.tanh(x @ self.weight.t()) ** self.power

        monkeypatch.setattr(registry, "_QUANTIZED_TYPES", dict(registry._QUANTIZED_TYPES))

        @register_quantized_layer(Gated)
        class QuantizedGated(QuantizedLayer):
            float_arguments = ("power",)
            power: int

            def compute(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
                return torch.tanh(x @ weight.t()) ** self.power

        model, x = fill(nn.Sequential(Gated(), nn.Linear(4, 3))), seeded((5, 6))
        report = analyze(model, [x], measure_time=False)
        assert report.layer("0").status == "quantized"
        assert report.output is not None
        assert 0 < report.output.error.nmse < 1e-2
        integer = quantize_model(model, [x], execution="integer")
        found = {entry.name: entry for entry in list_executions(integer)}
        assert (found["0"].execution, found["1"].execution) == ("simulated", "integer")
        assert "QuantizedGated has no integer arithmetic" in found["0"].reason
