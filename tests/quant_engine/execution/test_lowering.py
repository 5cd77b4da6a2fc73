import copy
from collections import OrderedDict
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

from quant_engine import LayerScheme, Recipe, TensorScheme, quantize_model
from quant_engine.errors import NotCalibratedError, UnsupportedLayerError
from quant_engine.execution.convert import convert_execution, execution_notes, list_executions
from quant_engine.execution.lowering.lower import is_lowered, lower_model, lowered_steps
from quant_engine.execution.lowering.steps import (
    ClampCodes,
    LoweredLayer,
    MaxPoolCodes,
    RoundToCodes,
)
from quant_engine.layers import QuantizedLayer
from quant_engine.model.batches import Batch
from tests.quant_engine.layer_cases import fill, seeded
from tests.quant_engine.unchanged import snapshot

IMAGES = seeded((4, 3, 12, 12))
ONE_CODE = 1.01


def lowered_pair(model, x, recipe=None):
    """The quantized model, and its lowered form simulated and on integers."""
    quantized = quantize_model(model, x, recipe)
    simulated = convert_execution(quantized, "simulated", lowered=True)
    assert execution_notes(simulated) == ()
    return quantized, simulated, convert_execution(simulated)


def steps_of(model):
    return [m for m in model.graph.modules() if isinstance(m, LoweredLayer)]


def kinds(model, kind):
    return sum(isinstance(module, kind) for module in model.graph.modules())


def assert_within_codes(found, expected, quantized, codes=3):
    """Equal but for codes next to a tie: a few steps of the last layer's input and weight."""
    last = [m for m in quantized.modules() if isinstance(m, QuantizedLayer)][-1]
    step = float(last.input_grid.scale) * float(last.dequantized_weight().abs().max())
    assert (found - expected).abs().max() <= codes * ONE_CODE * step


class Net(nn.Module):
    """Layers by name, and a forward given as a function of them and the input."""

    def __init__(self, run, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def conv(inputs, outputs, size=3, **arguments):
    return nn.Conv2d(inputs, outputs, size, padding=size // 2, **arguments)


def head(m, x):
    return m.fc(x.mean(dim=(2, 3)))


@torch.no_grad()
def test_a_chain_hands_on_codes_and_changes_no_number():
    model = fill(
        Net(
            lambda m, x: head(m, m.c2(m.pool(F.relu(m.c1(x))))),
            c1=conv(3, 6),
            pool=nn.MaxPool2d(3, 2, 1),
            c2=conv(6, 8),
            fc=nn.Linear(8, 5),
        )
    )
    quantized, simulated, integer = lowered_pair(model, IMAGES)
    assert torch.equal(simulated(IMAGES), quantized(IMAGES))
    found = {e.name: e for e in list_executions(integer)}
    assert list(found) == ["c1", "c2", "fc"]
    assert (found["c1"].has_code_input, found["c1"].has_code_output) == (True, True)
    assert (found["c2"].has_code_input, found["c2"].has_code_output) == (True, False)
    assert kinds(integer, MaxPoolCodes) == 1
    # Rounded: the image, and the pooled features before the last layer.
    assert kinds(integer, RoundToCodes) == 2
    assert_within_codes(integer(IMAGES), simulated(IMAGES), quantized)


@torch.no_grad()
def test_what_passes_between_layers_is_bytes():
    model = fill(Net(lambda m, x: m.b(F.relu(m.a(x))), a=conv(3, 6), b=conv(6, 2)))
    _, simulated, integer = lowered_pair(model, IMAGES)
    seen = {}
    for name, lowered in (("simulated", simulated), ("integer", integer)):
        second = lowered_steps(lowered)["b"]
        second.register_forward_pre_hook(lambda m, args, n=name: seen.update({n: args[0]}))
        lowered(IMAGES)
    assert seen["integer"].dtype == torch.uint8
    assert seen["simulated"].dtype == torch.float32
    grid = lowered_steps(integer)["b"].input_qparams
    values = (seen["integer"].float() - 128 - grid.zero_point) * grid.scale
    assert torch.allclose(values, seen["simulated"], atol=float(grid.scale) * ONE_CODE)
    assert (values != seen["simulated"]).float().mean() < 0.01


class Residual(nn.Module):
    def __init__(self, is_in_place=False, has_shortcut=False):
        super().__init__()
        self.stem, self.c1, self.c2 = conv(3, 8), conv(8, 8), conv(8, 8)
        self.shortcut = nn.Conv2d(8, 8, 1) if has_shortcut else nn.Sequential()
        self.after = conv(8, 4)  # the last in the list of modules, whose step bounds differences
        self.relu = nn.ReLU(inplace=is_in_place)
        self.is_in_place = is_in_place

    def forward(self, x):
        x = self.relu(self.stem(x))
        y = self.c2(self.relu(self.c1(x)))
        if self.is_in_place:
            y += self.shortcut(x)
        else:
            y = y + self.shortcut(x)
        return self.after(self.relu(y))


@pytest.fixture(scope="module")
def residual():
    """One with a residual quantized, lowered, and on integers; what a test changes it copies."""
    with torch.no_grad():
        return lowered_pair(fill(Residual()), IMAGES)


@pytest.mark.parametrize("is_in_place", [False, True])
@pytest.mark.parametrize("has_shortcut", [False, True])
@torch.no_grad()
def test_a_residual_is_added_inside_the_layer(is_in_place, has_shortcut):
    model = fill(Residual(is_in_place, has_shortcut))
    quantized, simulated, integer = lowered_pair(model, IMAGES)
    found = {e.name: e.has_code_output for e in list_executions(integer)}
    fused = "shortcut" if has_shortcut else "c2"
    assert found["stem"]
    assert found["c1"]
    assert found[fused]
    assert "add" not in {node.name for node in integer.graph.graph.nodes}
    assert_within_codes(integer(IMAGES), simulated(IMAGES), quantized, codes=6)
    # The residual is rounded once more than in the model as it was; its scale bounds by how much.
    assert_within_codes(simulated(IMAGES), quantized(IMAGES), quantized, codes=60)
    if has_shortcut:
        assert torch.equal(simulated(IMAGES), quantized(IMAGES))


@torch.no_grad()
def test_the_residual_is_read_as_the_codes_its_other_reader_gets(residual):
    quantized, simulated = residual[0], copy.deepcopy(residual[1])
    seen = {}
    lowered_steps(simulated)["c2"].register_forward_pre_hook(
        lambda m, args: seen.update(skip=args[1])
    )
    simulated(IMAGES)
    grid = quantized.c1.input_qparams
    codes = seen["skip"] / grid.scale
    assert torch.allclose(codes, codes.round(), atol=1e-3)


@torch.no_grad()
def test_a_value_behind_a_relu_is_not_read_as_codes_before_it():
    # The sum reads what ReLU cuts off, so the grid of ReLU's output would be too narrow.
    model = fill(
        Net(
            lambda m, x: m.d((lambda y: m.b(F.relu(y)) + y)(m.a(x))),
            a=conv(3, 8),
            b=conv(8, 8),
            d=conv(8, 2),
        )
    )
    quantized, simulated, integer = lowered_pair(model, IMAGES)
    assert torch.equal(simulated(IMAGES), quantized(IMAGES))
    assert_within_codes(integer(IMAGES), quantized(IMAGES), quantized)


@torch.no_grad()
def test_activations_change_no_number():
    activations = {"relu6": nn.ReLU6(), "gelu": nn.GELU(), "tanh": nn.GELU("tanh")}
    activations["hardswish"] = nn.Hardswish()  # the one that is not fused
    branches = {
        name: nn.Sequential(nn.Linear(10, 12), activation, nn.Linear(12, 3))
        for name, activation in activations.items()
    }
    x = 4 * seeded((16, 10))
    model = Net(lambda m, x: tuple(m.get_submodule(n)(x) for n in activations), **branches)
    quantized, simulated, integer = lowered_pair(fill(model), x)
    has_code_output = {e.name: e.has_code_output for e in list_executions(integer)}
    results = zip(activations, simulated(x), integer(x), quantized(x), strict=True)
    for name, by_simulation, on_integers, expected in results:
        assert torch.equal(by_simulation, expected), name
        assert_within_codes(on_integers, expected, quantized.get_submodule(name))
        assert has_code_output[f"{name}.0"] is (name != "hardswish"), name


@torch.no_grad()
def test_a_clamp_that_cannot_be_fused_runs_on_codes():
    # The pooling between layer and ReLU keeps the two apart.
    model = fill(nn.Sequential(conv(3, 6), nn.MaxPool2d(2), nn.ReLU6(), conv(6, 4), nn.Flatten(2)))
    quantized, simulated, integer = lowered_pair(model, IMAGES)
    assert kinds(integer, ClampCodes) == 1
    assert torch.equal(simulated(IMAGES), quantized(IMAGES))
    assert_within_codes(integer(IMAGES), quantized(IMAGES), quantized)


@torch.no_grad()
def test_two_readers_with_different_grids_each_round_for_themselves():
    model = fill(
        Net(
            lambda m, x: m.b(F.relu(m.a(x))) + m.c(F.relu(m.a(x))),
            a=conv(3, 6),
            b=conv(6, 2),
            c=conv(6, 2),
        )
    )
    narrow = LayerScheme(TensorScheme(), TensorScheme(bits=4, symmetric=False))
    recipe = Recipe(TensorScheme(), TensorScheme(symmetric=False), overrides={"c": narrow})
    quantized, simulated, integer = lowered_pair(model, IMAGES, recipe)
    assert torch.equal(simulated(IMAGES), quantized(IMAGES))
    assert_within_codes(integer(IMAGES), quantized(IMAGES), quantized, codes=20)


@torch.no_grad()
def test_one_rounding_serves_all_readers_of_a_value():
    model = fill(
        Net(
            lambda m, x: (lambda y: m.q(y) * m.k(y) + m.v(y))(m.norm(x)),
            norm=nn.LayerNorm(8),
            q=nn.Linear(8, 8),
            k=nn.Linear(8, 8),
            v=nn.Linear(8, 8),
        )
    )
    x = seeded((5, 8))
    quantized, simulated, integer = lowered_pair(model, x)
    assert kinds(integer, RoundToCodes) == 1
    assert torch.equal(simulated(x), quantized(x))
    assert torch.allclose(integer(x), quantized(x), atol=1e-4)


@torch.no_grad()
def test_a_layer_called_twice_runs_twice():
    model = fill(Net(lambda m, x: m.b(F.relu(m.a(F.relu(m.a(x))))), a=conv(3, 3), b=conv(3, 2)))
    quantized, simulated, integer = lowered_pair(model, IMAGES)
    assert len(steps_of(integer)) == 3
    assert torch.equal(simulated(IMAGES), quantized(IMAGES))
    assert_within_codes(integer(IMAGES), quantized(IMAGES), quantized, codes=6)


@torch.no_grad()
def test_a_pooling_used_on_codes_and_on_values_works_on_both():
    model = fill(
        Net(
            lambda m, x: m.b(m.pool(F.relu(m.a(x)))) + m.pool(torch.sigmoid(m.a(x))),
            a=conv(3, 4),
            b=conv(4, 4),
            pool=nn.MaxPool2d(2),
        )
    )
    quantized, simulated, integer = lowered_pair(model, IMAGES)
    assert torch.equal(simulated(IMAGES), quantized(IMAGES))
    assert_within_codes(integer(IMAGES), quantized(IMAGES), quantized)


@torch.no_grad()
def test_what_is_spread_over_the_output_is_added_all_the_same():
    model = Net(
        lambda m, x: (m.b(m.a(x) + m.offset), m.d(m.offset + m.c(x))),
        a=nn.Linear(6, 4),
        b=nn.Linear(4, 2),
        c=nn.Linear(6, 4),
        d=nn.Linear(4, 2),
    )
    model.offset = nn.Parameter(torch.randn(3, 1, 4))
    x = seeded((5, 6))
    quantized, simulated, integer = lowered_pair(fill(model), x)
    results = zip("bd", simulated(x), integer(x), quantized(x), strict=True)
    for last, by_simulation, on_integers, expected in results:
        assert torch.equal(by_simulation, expected)
        assert on_integers.shape == (3, 5, 2)
        assert_within_codes(on_integers, expected, quantized.get_submodule(last))


@torch.no_grad()
def test_a_layer_read_before_its_input_is_overwritten():
    def run(m, x):
        y = m.a(x)
        z = m.b(y)
        y.relu_()
        return m.c(z + y)

    model = fill(Net(run, a=conv(3, 6), b=conv(6, 6), c=conv(6, 2)))
    quantized, simulated, integer = lowered_pair(model, IMAGES)
    assert torch.equal(simulated(IMAGES), quantized(IMAGES))
    assert_within_codes(integer(IMAGES), quantized(IMAGES), quantized, codes=6)


@pytest.mark.parametrize(("batch_first", "layers"), [(True, 2), (False, 1)])
@torch.no_grad()
def test_attention_is_taken_apart(batch_first, layers):
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=batch_first)
    model = fill(nn.TransformerEncoder(layer, layers, enable_nested_tensor=False))
    x = seeded((3, 5, 16))
    quantized, simulated, integer = lowered_pair(model, x)
    assert torch.allclose(simulated(x), quantized(x), atol=1e-5)
    executions = list_executions(integer)
    assert len(executions) == 6 * layers
    assert all(e.has_code_input for e in executions)
    assert torch.allclose(integer(x), simulated(x), atol=0.05)


@torch.no_grad()
def test_names_weights_and_model_stay():
    model = fill(Residual())
    quantized = quantize_model(model, IMAGES)
    before = snapshot(quantized)
    lowered = lower_model(quantized)
    convert_execution(lowered)(IMAGES)
    assert snapshot(quantized) == before
    assert lowered.model.c1.quantized_weight is quantized.c1.quantized_weight
    assert is_lowered(lowered)
    assert not is_lowered(quantized)


@torch.no_grad()
def test_a_lowered_model_takes_other_batch_sizes(residual):
    _, simulated, integer = residual
    for images in (IMAGES[:1], IMAGES[:3], torch.cat([IMAGES, IMAGES])):
        assert torch.allclose(integer(images), simulated(images), atol=0.5)


class Undecided(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        return self.fc(x) if x.sum() > 0 else -self.fc(x)


@torch.no_grad()
def test_a_model_that_cannot_be_traced_keeps_float_between_layers_and_says_so():
    x = seeded((4, 6))
    quantized = quantize_model(fill(Undecided()), x)
    integer = convert_execution(quantized, lowered=True)
    assert not is_lowered(integer)
    (note,) = execution_notes(integer)
    assert note.startswith("Activations are float32 between layers.")
    assert "could not be captured" in note
    assert {e.execution for e in list_executions(integer)} == {"integer"}
    assert torch.allclose(integer(x), quantized(x), atol=1e-5)


def test_a_model_of_weights_only_has_nothing_to_lower():
    quantized = quantize_model(fill(Residual()), None, Recipe(TensorScheme()))
    with pytest.raises(UnsupportedLayerError, match="calibrated input range"):
        lower_model(quantized)
    assert (
        "calibrated input range" in execution_notes(convert_execution(quantized, lowered=True))[0]
    )


@torch.no_grad()
def test_a_layer_somebody_watches_is_left_alone():
    quantized = quantize_model(fill(Residual()), IMAGES)
    seen = []
    quantized.c1.register_forward_hook(lambda m, args, output: seen.append(output.dtype))
    integer = convert_execution(quantized, lowered=True)
    integer(IMAGES)
    assert seen == [torch.float32]
    assert "c1" in {e.name for e in list_executions(integer)}


@torch.no_grad()
def test_it_is_no_matter_which_way_the_model_came(residual):
    quantized, _, straight = residual
    detour = convert_execution(copy.deepcopy(convert_execution(quantized)), lowered=True)
    assert torch.equal(straight(IMAGES), detour(IMAGES))


@torch.no_grad()
def test_a_model_that_is_moved_or_given_other_numbers_is_lowered_for_them(residual):
    other = lowered_pair(fill(Residual(), seed=4), 3 * IMAGES)
    for lowered, expected in zip(copy.deepcopy(residual[1:]), other[1:], strict=True):
        assert not torch.equal(lowered(IMAGES), expected(IMAGES))
        lowered.load_state_dict(expected.state_dict())
        assert torch.equal(lowered(IMAGES), expected(IMAGES))
        assert torch.equal(lowered.cpu().train()(IMAGES), expected(IMAGES))


class AttentionTwice(nn.Module):
    """One attention, called once with weights and once without."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        y, _ = self.attention(x, x, x, need_weights=False)
        z, weights = self.attention(y, y, y)
        return self.fc(z), weights


@torch.no_grad()
def test_an_attention_called_as_a_whole_too_keeps_its_layers():
    x = seeded((2, 5, 8))
    quantized, simulated, integer = lowered_pair(fill(AttentionTwice()), x)
    for found, wanted in zip(simulated(x), quantized(x), strict=True):
        assert torch.allclose(found, wanted, atol=1e-5)
    assert torch.allclose(integer(x)[0], quantized(x)[0], atol=0.1)


@torch.no_grad()
def test_layers_with_the_names_of_new_steps_stay():
    model = fill(
        Net(
            lambda m, x: m.last(m.round_x(x)) + m.pool_x(m.first(x)),
            first=nn.Linear(6, 2),
            round_x=nn.Linear(6, 6),
            last=nn.Linear(6, 2),
            pool_x=nn.Tanh(),
        )
    )
    model.round_x, model.clamp_relu = nn.Tanh(), nn.Linear(6, 6)
    x = seeded((5, 6))
    quantized, simulated, _ = lowered_pair(model, x)
    assert torch.equal(simulated(x), quantized(x))


@torch.no_grad()
def test_numbers_that_change_in_place_are_noticed(residual):
    copies = copy.deepcopy(residual[1:])
    for execution, lowered in zip(("simulated", "integer"), copies, strict=True):
        before = lowered(IMAGES)
        lowered.model.c1.input_grid.scale = 2 * lowered.model.c1.input_grid.scale
        coarser = lowered(IMAGES)
        lowered.model.c2.bias += 1.0
        moved = lowered(IMAGES)
        assert not torch.equal(before, coarser)
        assert not torch.equal(coarser, moved)
        expected = convert_execution(lowered.model, execution, lowered=True)
        assert torch.equal(moved, expected(IMAGES))
        lowered.model.c2.bias -= 1.0  # which the first model shares
        step = lowered_steps(lowered)["c1"]
        step.layer.input_grid.scale = 3 * step.layer.input_grid.scale
        x = seeded((4, 8, 12, 12))
        with pytest.raises(NotCalibratedError, match="Lower the model again"):
            step((x.abs() * 9).byte() if execution == "integer" else x)


@torch.no_grad()
def test_on_integers_bare_operations_give_what_the_steps_give(residual):
    integer = copy.deepcopy(residual[2])
    for images in (
        IMAGES,
        IMAGES.contiguous(memory_format=torch.channels_last),
        seeded((4, 3, 12, 24))[..., ::2],
        seeded((2, 3, 16, 16)),
    ):
        found = integer(images)
        integer.runs_steps = True
        assert torch.equal(found, integer(images))
        integer.runs_steps = False
    graphs = [call.run for call in integer._bound.calls.values()]
    assert all(node.op != "call_module" for graph in graphs for node in graph.graph.nodes)


@torch.no_grad()
def test_operations_that_depend_on_values_are_not_written_down():
    def run(m, x):
        y = m.a(x)
        chosen = torch.nonzero(y[:, 0] > 0).squeeze(1)
        return m.b(y[chosen])

    model = fill(Net(run, a=nn.Linear(6, 8), b=nn.Linear(8, 2)))
    quantized = quantize_model(model, seeded((9, 6)))
    integer = convert_execution(quantized, lowered=True)
    assert is_lowered(integer)
    lengths = set()
    for seed in range(4):
        x = seeded((9, 6), seed=seed)
        torch.testing.assert_close(integer(x), quantized(x), rtol=0.1, atol=0.1)
        lengths.add(len(integer(x)))
    assert len(lengths) > 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@torch.no_grad()
def test_a_lowered_model_compiles_as_one_graph():
    """All but the generation of C++, which is the long part of compiling and torch's own."""
    x = seeded((5, 6))
    model = fill(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 3)))
    integer = convert_execution(quantize_model(model, x), kernel="portable", lowered=True)
    expected = integer(x)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(integer, backend="aot_eager", dynamic=False, fullgraph=True)
    torch.testing.assert_close(compiled(x), expected)
    counters = torch._dynamo.utils.counters
    assert (counters["stats"]["unique_graphs"], dict(counters["graph_break"])) == (1, {})
    torch.testing.assert_close(compiled(x[:1]), integer(x[:1]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_models_of_other_types_are_not_lowered(dtype):
    images = IMAGES.to(dtype)
    quantized = quantize_model(fill(Residual()).to(dtype), images)
    integer = convert_execution(quantized, lowered=True)
    assert "compute in float32" in execution_notes(integer)[0]
    assert integer(images).dtype == dtype


@torch.no_grad()
def test_autocast_changes_nothing_in_a_lowered_chain():
    model = fill(nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 4), nn.Flatten(), nn.Linear(576, 5)))
    quantized, *lowered = lowered_pair(model, IMAGES)
    expected = [quantized(IMAGES), lowered[1](IMAGES)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = [form(IMAGES) for form in lowered]
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@torch.no_grad()
def test_dropout_of_a_model_in_training_mode_is_not_kept():
    model = Net(
        lambda m, x: m.b(F.dropout(m.a(x), 0.5, m.training)), a=nn.Linear(6, 6), b=nn.Linear(6, 2)
    )
    x = seeded((5, 6))
    quantized = quantize_model(fill(model), x)
    lowered = convert_execution(quantized.train(), "simulated", lowered=True)
    assert quantized.training
    assert torch.equal(lowered(x), quantized.eval()(x))


def remember(m, x):
    m.seen = [m.a(x)]
    return m.seen[0]


def quantized_inside(run):
    return Net(run, a=quantize_model(fill(nn.Sequential(nn.Linear(6, 6))), seeded((5, 6))))


def test_a_value_kept_in_an_attribute_is_not_lost():
    with pytest.raises(UnsupportedLayerError, match="keeps a value in an attribute"):
        lower_model(quantized_inside(remember), Batch((seeded((5, 6)),)))


@dataclass
class Answer:
    logits: torch.Tensor
    parts: list
    mask: torch.Tensor | None = None


@pytest.mark.parametrize(
    "run",
    [
        lambda m, x: OrderedDict(y=m.a(x)),
        lambda m, x: Answer(m.a(x), [x, (m.a(x).relu(), "name")]),
        lambda m, x: torch.add(m.a(x), 1.0, out=x),
        lambda m, x: m.a(x).relu_().view(-1)[2:].mul_(2),
    ],
)
@torch.no_grad()
def test_what_a_model_returns_or_overwrites_stays(run):
    model = quantized_inside(run)
    x = seeded((5, 6))
    given, expected_given = x.clone(), x.clone()
    found, expected = lower_model(model)(given), model(expected_given)
    assert type(found) is type(expected)
    flat = [list(tree_leaves(vars(y) if isinstance(y, Answer) else y)) for y in (found, expected)]
    assert len(flat[0]) == len(flat[1])
    for one, other in zip(*flat, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    assert torch.equal(given, expected_given)


@torch.no_grad()
def test_a_watched_model_says_why_it_is_not_lowered():
    quantized = quantize_model(fill(Residual()), IMAGES)
    quantized.register_forward_hook(lambda m, args, y: None)
    assert "hooks" in execution_notes(convert_execution(quantized, lowered=True))[0]


def test_a_lowered_model_runs_with_gradients_switched_on():
    images = seeded((1, 3, 330, 330)).requires_grad_()
    quantized = quantize_model(fill(Residual()), images.detach())
    lowered = convert_execution(quantized, lowered=True)
    with torch.no_grad():
        expected = copy.deepcopy(lowered)(images)  # each prepares its own operations
    assert torch.equal(lowered(images), expected)
