"""A saved model comes back bit for bit, and what does not fit is said."""

from __future__ import annotations

import copy
import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

from quant_engine.analysis.analysis import analyze
from quant_engine.errors import DataError, StorageError
from quant_engine.execution.convert import convert_execution
from quant_engine.layers import QuantizedEmbedding, QuantizedLinear
from quant_engine.model.modules import replace_modules
from quant_engine.preparation.prepared_model import prepare
from quant_engine.preparation.selection import list_layers
from quant_engine.quantization.calibration import calibrate
from quant_engine.quantization.quantize import quantize_model
from quant_engine.quantization.storage import (
    file_bytes,
    load_quantized_model,
    save_quantized_model,
    serialized_bytes,
)
from quant_engine.scheme import LayerScheme, Recipe
from quant_engine.tensors.packing import packed_length
from tests.quant_engine.layer_cases import (
    LAYER_SCHEMES,
    WEIGHTS_ONLY,
    WITH_INPUT,
    fill,
    layer_schemes,
    one_of_each,
    quantized,
    seeded,
    with_bits,
)
from tests.quant_engine.preparation.test_preparation import IDS, IMAGE, Language, Net

WEIGHTS, STRUCTURE = "model.safetensors", "model.json"
each_scheme = pytest.mark.parametrize("scheme", LAYER_SCHEMES.values(), ids=LAYER_SCHEMES)


def quantize_all(model: nn.Module, scheme: LayerScheme, *inputs: Tensor) -> nn.Module:
    """Quantize every layer on what it sees in one run; the last one stays float."""
    result = prepare(model).model
    seen: dict[str, Tensor] = {}
    layers = [layer for layer in list_layers(result) if layer.is_quantizable][:-1]
    handles = [
        layer.module.register_forward_pre_hook(
            lambda _, args, name=layer.name: seen.__setitem__(name, args[0])
        )
        for layer in layers
    ]
    with torch.no_grad():
        result(*inputs)
    for handle in handles:
        handle.remove()
    for layer in layers:
        new = quantized(layer.module, seen[layer.name], scheme)
        result = replace_modules(result, {layer.name: new})
    return result.eval()


def flat(y: Any) -> list[Tensor]:
    return list(y.values()) if isinstance(y, dict) else [y]


def assert_same_bits(first: nn.Module, second: nn.Module, *inputs: Tensor) -> None:
    with torch.no_grad():
        pairs = zip(flat(first(*inputs)), flat(second(*inputs)), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    mine, other = first.state_dict(), second.state_dict()
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        assert value.dtype == other[name].dtype
        assert torch.equal(value, other[name])


MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "net": (Net, IMAGE),
    "language": (Language, IDS),
    "plain": (lambda: nn.Sequential(nn.Linear(9, 4), nn.ReLU(), nn.Linear(4, 2)), IMAGE),
}


@each_scheme
@pytest.mark.parametrize(("build", "x"), MODELS.values(), ids=MODELS)
def test_round_trip(
    build: Callable[[], nn.Module], x: Tensor, scheme: LayerScheme, tmp_path: Path
) -> None:
    model = quantize_all(fill(build()), scheme, x)
    blank = build()
    before = copy.deepcopy(blank.state_dict())

    save_quantized_model(model, tmp_path / "deep" / "folder")
    loaded = load_quantized_model(blank, tmp_path / "deep" / "folder")

    assert_same_bits(model, loaded, x)
    assert not loaded.training
    assert blank.training
    assert all(torch.equal(before[name], value) for name, value in blank.state_dict().items())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(scheme=layer_schemes)
def test_any_scheme_of_any_layer(scheme: LayerScheme, tmp_path: Path) -> None:
    for module, x in one_of_each().values():
        layer = quantized(module, x, scheme)

        save_quantized_model(layer, tmp_path)
        loaded = load_quantized_model(fill(copy.deepcopy(module), seed=5), tmp_path)

        assert_same_bits(layer, loaded, x)
        assert loaded.scheme == layer.scheme


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types(dtype: torch.dtype, tmp_path: Path) -> None:
    float_model = fill(nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3))).to(dtype)
    ids = torch.tensor([0, 4])
    model = quantize_all(float_model, WEIGHTS_ONLY, ids)

    save_quantized_model(model, tmp_path)

    loaded = load_quantized_model(copy.deepcopy(float_model), tmp_path)
    assert_same_bits(model, loaded, ids)
    assert loaded(ids).dtype == dtype
    with pytest.raises(StorageError, match=r"'0' is a QuantizedEmbedding .*the model's"):
        load_quantized_model(float_model.float(), tmp_path)


def test_channels_last(tmp_path: Path) -> None:
    float_model = fill(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)))
    float_model = float_model.to(memory_format=torch.channels_last)
    model = quantize_all(float_model, WITH_INPUT, IMAGE)

    save_quantized_model(model, tmp_path)
    loaded = load_quantized_model(float_model, tmp_path)

    assert_same_bits(model, loaded, IMAGE)
    assert loaded[0].quantized_weight.stride() == model[0].quantized_weight.stride()


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_take_their_true_width_in_the_file(bits: int, tmp_path: Path) -> None:
    layer = quantized(fill(nn.Linear(50, 33)), seeded((2, 50)), with_bits(WITH_INPUT, bits))

    save_quantized_model(layer, tmp_path)

    tensors = safetensors.torch.load_file(tmp_path / WEIGHTS)
    codes = tensors["stored_weight.codes"]
    assert codes.numel() * codes.element_size() == packed_length(50 * 33, bits)
    assert serialized_bytes(layer) == (tmp_path / WEIGHTS).stat().st_size
    payload = sum(t.numel() * t.element_size() for t in tensors.values())
    assert payload == packed_length(50 * 33, bits) + 33 * 4 + 33 * 4 + 4 + 1


def test_the_file_shrinks() -> None:
    float_model = fill(nn.Sequential(nn.Linear(128, 128), nn.Linear(128, 128)))
    assert isinstance(float_model, nn.Sequential)
    layers = [quantized(layer, seeded((2, 128)), WITH_INPUT) for layer in float_model]

    assert serialized_bytes(nn.Sequential(*layers)) < 0.3 * serialized_bytes(float_model)


def test_float_bytes_are_those_of_a_plain_file(tmp_path: Path) -> None:
    model = Net()

    safetensors.torch.save_file(model.state_dict(), tmp_path / "plain")

    assert serialized_bytes(model) == (tmp_path / "plain").stat().st_size


def test_shared_tensors_are_stored_once_and_shared_again(tmp_path: Path) -> None:
    def build() -> nn.Module:
        model = nn.ModuleDict({"table": nn.Embedding(40, 30), "head": nn.Linear(30, 40)})
        model["head"].weight = model["table"].weight
        return fill(model)

    model = prepare(build()).model
    table = QuantizedEmbedding.from_float(model["table"], WEIGHTS_ONLY)
    head = QuantizedLinear.like(model["head"], WEIGHTS_ONLY)
    head.share_codes(table)
    model["table"], model["head"] = table, head

    save_quantized_model(model, tmp_path)
    loaded = load_quantized_model(build(), tmp_path)

    assert set(safetensors.torch.load_file(tmp_path / WEIGHTS)) == {
        "table.stored_weight.codes",
        "table.stored_weight.scale",
        "head.bias",
    }
    assert loaded["head"].quantized_weight is loaded["table"].quantized_weight
    assert loaded["head"].stored_weight.scale is loaded["table"].stored_weight.scale
    assert_same_bits(loaded["head"], head, seeded((2, 30)))


def test_a_shared_module_stays_one(tmp_path: Path) -> None:
    def build() -> nn.Module:
        shared = nn.Linear(4, 4)
        return fill(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 2)))

    model = quantize_all(build(), WITH_INPUT, seeded((3, 4)))
    save_quantized_model(model, tmp_path)

    loaded = load_quantized_model(build(), tmp_path)

    assert loaded[0] is loaded[2]
    assert_same_bits(model, loaded, seeded((3, 4)))


def test_tensors_in_shared_memory_are_stored(tmp_path: Path) -> None:
    model = nn.Linear(4, 4)
    model.register_buffer("view", model.weight.data.view(-1))
    model.register_buffer("part", model.weight.data[1])

    save_quantized_model(model, tmp_path)

    assert set(safetensors.torch.load_file(tmp_path / WEIGHTS)) == {
        "weight",
        "bias",
        "view",
        "part",
    }


def test_models_built_by_hand(tmp_path: Path) -> None:
    """Quantized layers written into the model, BatchNorms not folded."""

    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), QuantizedLinear(7, 2))

    model = fill(build())
    model[2].quantize_weights()
    save_quantized_model(model, tmp_path)

    loaded = load_quantized_model(build(), tmp_path)

    assert_same_bits(model, loaded, IMAGE)
    assert loaded[2].is_quantized


def test_a_model_left_in_float(tmp_path: Path) -> None:
    model = prepare(fill(Net())).model
    save_quantized_model(model, tmp_path)

    assert_same_bits(model, load_quantized_model(Net(), tmp_path), IMAGE)


def test_saving_again_overwrites(tmp_path: Path) -> None:
    for seed in (1, 2):
        model = QuantizedLinear.from_float(fill(nn.Linear(3, 2), seed), WEIGHTS_ONLY)
        save_quantized_model(model, tmp_path)

    assert_same_bits(model, load_quantized_model(nn.Linear(3, 2), tmp_path), seeded((1, 3)))
    assert {path.name for path in tmp_path.iterdir()} == {WEIGHTS, STRUCTURE}


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    save_quantized_model(QuantizedLinear.from_float(nn.Linear(3, 2), WEIGHTS_ONLY), tmp_path)
    monkeypatch.setattr("pickle.load", forbidden)
    monkeypatch.setattr("pickle.Unpickler", forbidden)
    monkeypatch.setattr("torch.load", forbidden)

    load_quantized_model(nn.Linear(3, 2), tmp_path)


# What does not fit ------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    model = quantize_all(fill(build_pair()), LAYER_SCHEMES["four_bits"], seeded((2, 6)))
    save_quantized_model(model, tmp_path)
    return tmp_path


def build_pair() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((folder / STRUCTURE).read_text("utf-8"))
    change(data)
    (folder / STRUCTURE).write_text(json.dumps(data), "utf-8")


def edit_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    change(tensors)
    content = safetensors.torch.save(tensors)
    (folder / WEIGHTS).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    edit(folder, lambda data: data.update(weights_sha256=digest))


def test_the_fixture_loads(saved: Path) -> None:
    load_quantized_model(build_pair(), saved)


@pytest.mark.parametrize("name", [WEIGHTS, STRUCTURE])
def test_missing_file(saved: Path, name: str) -> None:
    (saved / name).unlink()

    with pytest.raises(StorageError, match=rf"Cannot read .*{name}: No such file"):
        load_quantized_model(build_pair(), saved)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="Cannot read"):
        load_quantized_model(build_pair(), tmp_path / "nowhere")


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")

    with pytest.raises(StorageError, match="Cannot write to"):
        save_quantized_model(build_pair(), tmp_path / "file")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"[1, 2]", b"null", b'{"a": 1}'])
def test_structure_that_is_no_structure(saved: Path, content: bytes) -> None:
    (saved / STRUCTURE).write_bytes(content)

    with pytest.raises(StorageError, match=r"is not JSON|format version None"):
        load_quantized_model(build_pair(), saved)


def test_another_version(saved: Path) -> None:
    edit(saved, lambda data: data.update(format_version=99))

    with pytest.raises(StorageError, match="format version 99; this version reads 1"):
        load_quantized_model(build_pair(), saved)


CHANGES: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "unknown key": (lambda d: d.update(extra=1), "unknown key 'extra'"),
    "missing key": (lambda d: d.pop("aliases"), "lacks aliases"),
    "unknown key of a layer": (lambda d: d["layers"][0].update(x=1), r"layers\[0\].*key 'x'"),
    "wrong kind of value": (lambda d: d["layers"][0].update(name=3), "must be of type str"),
    "layers is no list": (lambda d: d.update(layers={}), "layers must be a list"),
    "bits that do not exist": (
        lambda d: d["layers"][0]["scheme"]["weight"].update(bits=17),
        r"layers\[0\].scheme.weight: bits is 17",
    ),
    "unknown key of a scheme": (
        lambda d: d["layers"][0]["scheme"]["weight"].update(bitz=4),
        "bitz",
    ),
    "unknown layer": (lambda d: d["layers"][0].update(name="head"), "'head' is not in this"),
    "layer of another kind": (
        lambda d: d["layers"][0].update(kind="QuantizedConv2d"),
        "is a QuantizedConv2d with weight",
    ),
    "layer that has no weights": (lambda d: d["layers"][0].update(name="1"), "has a ReLU there"),
    "another shape": (lambda d: d["layers"][0].update(weight_shape=[5, 7]), "take 18 bytes"),
    "other bits": (
        lambda d: d["layers"][0]["scheme"]["weight"].update(bits=3),
        "30 codes of 3 bits take 12 bytes",
    ),
    "other granularity": (
        lambda d: d["layers"][0]["scheme"]["weight"].update(granularity="per_tensor"),
        "'0.stored_weight.scale' is",
    ),
    "asymmetric": (
        lambda d: d["layers"][0]["scheme"]["weight"].update(symmetric=False),
        "lacks 1 tensors .0.stored_weight.zero_point.",
    ),
    "input stays float": (
        lambda d: d["layers"][0]["scheme"].update(activation=None),
        "beyond what the model has, 1 tensors .0.input_grid.scale.",
    ),
    "layer left out": (lambda d: d["layers"].pop(), "stored model (lacks|holds)"),
}


@pytest.mark.parametrize(("change", "message"), CHANGES.values(), ids=CHANGES)
def test_a_structure_that_does_not_fit(
    saved: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(saved, change)

    with pytest.raises(StorageError, match=message):
        load_quantized_model(build_pair(), saved)


TENSOR_CHANGES: dict[str, tuple[Callable[[dict[str, Tensor]], object], str]] = {
    "missing": (lambda t: t.pop("2.bias"), r"lacks 1 tensors \(2.bias\)"),
    "codes missing": (
        lambda t: t.pop("0.stored_weight.codes"),
        r"lacks 1 tensors \(0.stored_weight",
    ),
    "too many": (lambda t: t.update(more=torch.ones(1)), r"beyond .* 1 tensors \(more\)"),
    "wrong shape": (lambda t: t.update({"2.bias": torch.ones(4)}), r"'2.bias' is .*\(4,\)"),
    "wrong type": (lambda t: t.update({"2.bias": torch.ones(3).half()}), "float16"),
    "codes too short": (
        lambda t: t.update({"0.stored_weight.codes": t["0.stored_weight.codes"][1:].clone()}),
        "30 codes of 4 bits take 15 bytes",
    ),
    "codes not packed": (
        lambda t: t.update({"0.stored_weight.codes": torch.zeros(5, 6, dtype=torch.int8)}),
        "30 codes of 4 bits take 15 bytes",
    ),
}


@pytest.mark.parametrize(("change", "message"), TENSOR_CHANGES.values(), ids=TENSOR_CHANGES)
def test_tensors_that_do_not_fit(
    saved: Path, change: Callable[[dict[str, Tensor]], object], message: str
) -> None:
    edit_tensors(saved, change)

    with pytest.raises(StorageError, match=message):
        load_quantized_model(build_pair(), saved)


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[:-1] + b"\x07", lambda b: b""])
def test_a_damaged_file(saved: Path, damage: Callable[[bytes], bytes]) -> None:
    content = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(damage(content))

    with pytest.raises(StorageError, match="damaged, or from another save"):
        load_quantized_model(build_pair(), saved)


def test_a_file_of_another_format(saved: Path) -> None:
    (saved / WEIGHTS).write_bytes(b"PK not a tensor file")
    digest = hashlib.sha256(b"PK not a tensor file").hexdigest()
    edit(saved, lambda data: data.update(weights_sha256=digest))

    with pytest.raises(StorageError, match=r"model\.safetensors cannot be read"):
        load_quantized_model(build_pair(), saved)


@pytest.mark.parametrize(
    "build",
    [
        lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3)),
        lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU()),
        lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3), nn.Linear(3, 3)),
        lambda: nn.Sequential(nn.Linear(6, 5, bias=False), nn.ReLU(), nn.Linear(5, 3)),
        lambda: nn.Linear(6, 5),
        lambda: nn.Sequential(nn.Conv1d(6, 5, 1), nn.ReLU(), nn.Linear(5, 3)),
    ],
)
def test_another_architecture(saved: Path, build: Callable[[], nn.Module]) -> None:
    with pytest.raises(StorageError, match="Give a model of the architecture that was saved"):
        load_quantized_model(build(), saved)


def test_a_model_that_ties_what_the_file_does_not(tmp_path: Path) -> None:
    save_quantized_model(fill(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))), tmp_path)
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight

    with pytest.raises(StorageError, match=r"ties '1\.weight' to another tensor"):
        load_quantized_model(tied, tmp_path)


class Stepping(nn.Module):
    """Keeps something besides its parameters, which `set_extra_state` takes back."""

    def __init__(self, extra: Any = None) -> None:
        super().__init__()
        self.layer, self.extra = nn.Linear(6, 3), extra

    def get_extra_state(self) -> Any:
        return self.extra

    def set_extra_state(self, state: Any) -> None:
        self.extra = state

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


@pytest.mark.parametrize("extra", [{"step": 3, "names": ["a"]}, 2.5, torch.arange(4)])
def test_extra_state_comes_back(tmp_path: Path, extra: Any) -> None:
    model = quantize_model(fill(Stepping(extra)), seeded((8, 6)))
    save_quantized_model(model, tmp_path)
    loaded = load_quantized_model(
        Stepping(torch.zeros(4) if isinstance(extra, Tensor) else 0), tmp_path
    )

    assert (
        torch.equal(torch.as_tensor(loaded.extra), extra)
        if isinstance(extra, Tensor)
        else (loaded.extra == extra)
    )


@pytest.mark.parametrize("extra", [{1: 2}, (1, 2), object(), float("nan")])
def test_extra_state_that_json_would_change_is_refused(tmp_path: Path, extra: Any) -> None:
    with pytest.raises(StorageError, match="'_extra_state' is neither a tensor nor a plain value"):
        save_quantized_model(Stepping(extra), tmp_path)


class MaskedLanguage(nn.Module):
    """The head of BERT and its kin: the decoder's weight is the table, its bias the head's own."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.body = nn.Embedding(20, 6), nn.Linear(6, 6)
        self.decoder = nn.Linear(6, 20)
        self.bias = nn.Parameter(torch.zeros(20))
        self.decoder.weight, self.decoder.bias = self.table.weight, self.bias

    def forward(self, ids: Tensor) -> Tensor:
        return self.decoder(torch.relu(self.body(self.table(ids))))


class TwoBiases(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.second.bias = self.first.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(torch.relu(self.first(x))))


@pytest.mark.parametrize(
    ("build", "excluded", "has_cut"),
    [
        (MaskedLanguage, (), False),
        (MaskedLanguage, ("decoder",), True),
        (MaskedLanguage, ("table",), True),
        (TwoBiases, (), False),
        (TwoBiases, ("first",), False),
        (TwoBiases, ("second",), False),
    ],
)
def test_ties_of_weights_and_biases_survive(
    tmp_path: Path, build: Callable[[], nn.Module], excluded: tuple[str, ...], has_cut: bool
) -> None:
    model, recipe = fill(build()), Recipe.default().with_excluded(*excluded)
    x = torch.arange(20).view(4, 5) if build is MaskedLanguage else seeded((4, 6))
    quantized_model = quantize_model(model, x, recipe)
    save_quantized_model(quantized_model, tmp_path)
    loaded = load_quantized_model(build(), tmp_path)

    assert_same_bits(quantized_model, loaded, x)
    for one in (quantized_model, loaded):
        if build is MaskedLanguage:
            assert one.decoder.bias is one.bias
            stored = one.decoder._modules.get("stored_weight")
            assert has_cut or stored.codes is one.table.quantized_weight
        else:
            assert one.first.bias is one.second.bias
    report = analyze(model, x, recipe, measure_time=False)
    assert any("were one tensor" in note for note in report.notes) == has_cut
    stored = (tmp_path / WEIGHTS).stat().st_size
    assert report.size.quantized_file_bytes == stored
    header = int.from_bytes((tmp_path / WEIGHTS).read_bytes()[:8], "little")
    assert report.size.quantized_bytes == stored - 8 - header


@pytest.mark.parametrize(
    ("stored", "other", "message"),
    [
        (nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(3, 4, 3), r"stride=\(2, 2\).*stride=\(1, 1\)"),
        (nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3), "padding"),
        (nn.Conv2d(3, 4, 3), nn.Conv2d(3, 5, 3), "another model|weight"),
    ],
)
def test_files_and_calibrations_of_another_model_are_refused(
    tmp_path: Path, stored: nn.Module, other: nn.Module, message: str
) -> None:
    model, another, x = (
        nn.Sequential(fill(stored)),
        nn.Sequential(fill(other)),
        seeded((2, 3, 8, 8)),
    )
    save_quantized_model(quantize_model(model, x), tmp_path)
    with pytest.raises(StorageError, match=message):
        load_quantized_model(another, tmp_path)
    with pytest.raises(DataError, match="calibration is of another model: its layer '0' is Conv2d"):
        quantize_model(another, calibrate(model, x))


def test_a_lowered_model_is_not_stored(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    lowered = convert_execution(quantize_model(model, torch.randn(8, 4)), lowered=True)
    with pytest.raises(StorageError, match="lower it again after loading"):
        save_quantized_model(lowered, tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("count", [0, 1, 7, 40])
def test_the_length_of_a_file_is_that_of_the_file(count: int) -> None:
    generator = random.Random(count)
    dtypes = [torch.float32, torch.float16, torch.int8, torch.uint8, torch.int64, torch.bool]
    tensors = {
        "".join(generator.choices('aü"\\/\n. x', k=6)): torch.zeros(
            [generator.randrange(30) for _ in range(generator.randrange(4))],
            dtype=generator.choice(dtypes),
        )
        for _ in range(count)
    }

    assert file_bytes(tensors) == len(safetensors.torch.save(tensors))
