"""The example scripts run as documented, without a warning, and show what they say they show."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from quant_engine import PRESETS, QuantizedConv2d, QuantizedLinear
from quant_engine.layers import QuantizedLayer
from quant_engine.layers.registry import _QUANTIZED_TYPES

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"examples_{name}", ROOT / f"examples/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs_as_documented(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert f"python examples/{path.name}" in path.read_text()
    if path != EXAMPLES[0]:  # one in a process of its own, as that imports torch anew
        runpy.run_path(str(path), run_name="__main__")
        assert len(capsys.readouterr().out.splitlines()) >= 8
        return
    done = subprocess.run(
        [sys.executable, "-W", "error", f"examples/{path.name}"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) >= 8
    assert done.stderr == ""


def test_quick_start_shrinks_a_model_nearly_four_times() -> None:
    example = load("quick_start")
    assert 0.0 < example.quantize_a_tensor() < 1e-3
    before, after = example.replace_layers_by_hand()
    assert 3.8 < before / after < 4.0
    layers = [m for m in example.quantize_a_model().modules() if isinstance(m, QuantizedLayer)]
    assert len(layers) == 3
    assert all(layer.input_qparams is not None for layer in layers)


def test_basic_quantization_shows_what_schemes_are_for() -> None:
    example = load("basic_quantization")
    tensors = example.make_tensors(torch.Generator().manual_seed(0))
    sqnr_db = example.compare_schemes(tensors)
    assert sqnr_db["far from zero", "asymmetric, one scale"] > 50
    assert (
        sqnr_db["after ReLU", "asymmetric, one scale"]
        > 3 + (sqnr_db["after ReLU", "symmetric, one scale"])
    )
    assert (
        sqnr_db["unequal columns", "symmetric, scale per column"]
        > 5 + (sqnr_db["unequal columns", "symmetric, one scale"])
    )


def test_basic_quantization_shows_what_calibration_data_is_for() -> None:
    mse = load("basic_quantization").compare_calibration_data(torch.Generator().manual_seed(0))
    narrower = ["all of it", "a hundredth of it", "half as wide", "a quarter as wide"]
    assert sorted(narrower, key=mse.get) == narrower
    assert mse["a quarter as wide"] > 100 * mse["all of it"]


def test_basic_quantization_shows_that_clipping_pays_at_few_bits() -> None:
    example = load("basic_quantization")
    loud = example.make_tensors(torch.Generator().manual_seed(0))["a few loud rows"]
    eight, four = example.compare_observers(loud, 8), example.compare_observers(loud, 4)
    assert max(four, key=four.get) == "mse"
    assert four["mse"] > four["minmax"] + 1
    assert eight["minmax"] > eight["percentile"]


def test_model_comparison_compares_two_models_on_real_data() -> None:
    found = load("model_comparison").compare_before_and_after("mlp")
    assert found["prediction_agreement"] > 0.95
    assert found["size_reduction_ratio"] > 3.5


def test_model_comparison_shows_what_channels_are_for() -> None:
    mse = load("model_comparison").compare_weight_schemes("mlp")
    for layer in {layer for _, layer in mse}:
        whole, channels = (
            mse["symmetric, one scale", layer],
            mse["symmetric, scale per output", layer],
        )
        assert channels < whole


def test_model_comparison_trains_a_model_for_few_bits() -> None:
    found = load("model_comparison").train_for_few_bits("mlp", bits=2, steps=40)
    assert found["rounded"] < 0.8
    assert found["trained for it"] > 0.9
    assert found["float"] > 0.97


def test_model_comparison_finds_the_layers_that_break() -> None:
    report = load("model_comparison").rank_layers(
        "mobilenet_unequal_channels", PRESETS["int8_per_tensor"]
    )
    worst = max(report.layers, key=lambda layer: layer.kl_divergence)
    assert "depthwise" in worst.name


# --- layers used by themselves, the way the examples do -------------------------------------------


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (lambda: QuantizedLinear(10, 5, bias=True), torch.linspace(-1, 1, 320).view(32, 10)),
        (lambda: QuantizedLinear(10, 5, False), torch.linspace(-1, 1, 320).view(32, 10)),
        (
            lambda: QuantizedConv2d(3, 16, kernel_size=3, stride=1, padding=1, bias=True),
            torch.linspace(-1, 1, 8 * 3 * 64).view(8, 3, 8, 8),
        ),
    ],
    ids=["linear", "linear without bias", "conv2d"],
)
def test_a_layer_starts_float_and_is_quantized_on_demand(layer, x) -> None:
    layer = layer()
    assert not layer.is_quantized
    assert layer.quantized_weight is None
    layer.weight.data = layer.weight.data.clone()
    before = layer(x).detach()
    layer.quantize_weights()
    assert layer.is_quantized
    assert layer.quantized_weight.dtype == torch.int8
    after = layer(x)
    assert after.shape == before.shape
    assert 0.0 < (after - before).square().mean() < 1e-3


@pytest.mark.slow
def test_the_python_of_the_page_on_layers_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/layers.md").read_text(), re.DOTALL)
    known = dict(_QUANTIZED_TYPES)
    try:
        exec(compile(block, "docs/layers.md", "exec"), {"__name__": "layers"})
    finally:
        _QUANTIZED_TYPES.clear()
        _QUANTIZED_TYPES.update(known)
    assert capsys.readouterr().out.startswith("quantized ")


def test_the_python_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 5
    assert blocks[0].count('"resnet"') == 2
    names: dict[str, object] = {}
    for block in blocks:
        if "ProcessPoolExecutor" not in block:
            # Every line runs, on the smallest network.
            exec(compile(block.replace('"resnet"', '"mlp"'), "README.md", "exec"), names)
    printed = capsys.readouterr().out
    assert "execution='integer'" in printed
    assert "Rank correlation with measured values" in printed
