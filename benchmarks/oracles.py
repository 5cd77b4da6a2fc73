r"""Remedies beside those of other packages; `python -m benchmarks.oracles` prints the tables.

The packages need an environment of their own, without all that they ask for (Python 3.11, CPU):

    python -m venv oracles
    oracles/bin/pip install torch==2.13.0 torchvision==0.28.0 transformers==5.24.0 accelerate \
        bokeh datasets jsonschema loguru networkx numpy nvidia-ml-py omegaconf onnx onnxscript \
        pandas peft psutil pulp pydantic regex requests rich safetensors scipy tqdm
    oracles/bin/pip install --no-deps aimet-torch==2.42.0 nvidia-modelopt==0.47.0 \
        llmcompressor==0.14.0.1 compressed-tensors==0.19.0
    PYTHONPATH=. oracles/bin/python -m benchmarks.oracles

A comparison whose package is not there is left out, and the reason is printed.
"""

from __future__ import annotations

import argparse
import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from quant_engine import analyze, quantize_model
from quant_engine.layers import QuantizedLayer
from quant_engine.preparation import prepare_for
from quant_engine.report import Treatment
from quant_engine.scheme import Awq, CrossLayerEqualization, Gptq, Recipe, SmoothQuant, TensorScheme
from sample_models import get_model_info

CALIBRATION_SAMPLES = 200
ALPHAS = (0.25, 0.5, 0.8)
GROUP = 16
LINEAR_MODELS = ("transformer", "vit", "vit_outlier_channels")

Rows = Iterator[list[str]]


def main() -> None:
    """Print a table for each comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=list(COMPARISONS), default=list(COMPARISONS))
    warnings.simplefilter("ignore")  # those of the packages
    torch.manual_seed(0)
    for name in parser.parse_args().only:
        package, head, rows = COMPARISONS[name]
        try:
            print(f"\n{name}: {package} {version(package)}\n\n| {' | '.join(head)} |")
            print("|" + "---|" * len(head))
            for row in rows():
                print(f"| {' | '.join(row)} |", flush=True)
        except (ImportError, PackageNotFoundError) as error:
            print(f"\n{name}: left out, because {package} cannot be imported: {error!r}")


@dataclass(frozen=True)
class Case:
    """A normalization and the linear layer that reads it, and what enters them in a model."""

    name: str
    model: nn.Sequential
    x: Tensor

    @property
    def read(self) -> Tensor:
        """What the linear layer reads, (values, inputs)."""
        with torch.no_grad():
            read: Tensor = self.model[0](self.x)
        return read.flatten(0, -2)

    @property
    def linear(self) -> nn.Linear:
        """The layer."""
        layer: nn.Linear = self.model[1]  # type: ignore[assignment]
        return layer


def cases(name: str) -> Iterator[Case]:
    """Yield every LayerNorm of a sample model with a linear layer that reads it alone."""
    prepared, data, _ = prepare_for(_load(name), _calibration(name))
    pairs: list[tuple[str, nn.Module]] = list(prepared.model.named_modules())
    for path, layer in pairs:
        norm = {"linear1": "norm1", "fc1": "norm2"}.get(path.rpartition(".")[2])
        if norm is None:
            continue
        source = prepared.model.get_submodule(f"{path.rpartition('.')[0]}.{norm}")
        seen: list[Tensor] = []
        handle = source.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        with torch.no_grad():
            prepared.model(data)
        handle.remove()
        yield Case(f"{name} {path}", nn.Sequential(source, layer), seen[0])


def equalization_rows() -> Rows:
    """Factors of AIMET and of ours, for every pair that AIMET finds."""
    aimet: Any = import_module("aimet_torch.cross_layer_equalization")
    generator = torch.Generator().manual_seed(0)
    first, second = nn.Conv2d(1, 8, 3), nn.Conv2d(8, 6, 3)
    with torch.no_grad():
        first.weight.mul_(torch.randn((8, 1, 1, 1), generator=generator).exp())
    models: dict[str, tuple[nn.Module, Tensor]] = {
        "two convolutions": (
            nn.Sequential(first, nn.ReLU(), second),
            torch.rand((20, 1, 8, 8), generator=generator),
        )
    }
    for name in ("mobilenet", "mobilenet_unequal_channels"):
        models[name] = (_load(name), _calibration(name))
    for name, (model, x) in models.items():
        remedy = CrossLayerEqualization(absorb_bias=False)
        ours = {
            t.layers: t for t in _treatments(model, x, Recipe(TensorScheme(), remedies=(remedy,)))
        }
        theirs = copy.deepcopy(prepare_for(model, x)[0].model)
        names = {module: path for path, module in theirs.named_modules()}
        with redirect_stdout(StringIO()):
            found = aimet.CrossLayerScaling.scale_model(theirs, dummy_input=x[:1])
        furthest, pairs = 0.0, 0
        for pair in (pair for one in found for pair in one.cls_pair_info_list):
            module = [getattr(x, "get_module", lambda x=x: x)() for x in (pair.layer1, pair.layer2)]
            scales = torch.tensor(ours[names[module[0]], names[module[1]]].scales)
            furthest = max(
                furthest, (scales / torch.from_numpy(pair.scale_factor) - 1).abs().max().item()
            )
            pairs += 1
        applied = sum(t.is_applied for t in ours.values())
        yield [name, str(pairs), str(applied), f"{furthest:.1e}"]


def smoothing_rows() -> Rows:
    """Factors of ModelOpt's SmoothQuant and of ours at the same α."""
    mtq: Any = import_module("modelopt.torch.quantization")
    weight, inputs = {"num_bits": 8, "axis": 0}, {"num_bits": 8, "axis": None}
    for name in LINEAR_MODELS:
        for alpha in ALPHAS:
            furthest, count = 0.0, 0
            for case in cases(name):
                remedy = SmoothQuant(alpha=alpha)
                recipe = Recipe(
                    TensorScheme(granularity="per_channel"), TensorScheme(), remedies=(remedy,)
                )
                (ours,) = [t for t in _treatments(case.model, case.x, recipe) if t.is_applied]
                algorithm = {"method": "smoothquant", "alpha": alpha}
                layer = _by_modelopt(mtq, case, weight, inputs, algorithm)
                theirs = 1 / layer.input_quantizer.pre_quant_scale.flatten().double()
                furthest = max(
                    furthest, (torch.tensor(ours.scales) / theirs - 1).abs().max().item()
                )
                count += 1
            yield [name, str(count), f"{alpha:g}", f"{furthest:.1e}"]


def awq_rows() -> Rows:
    """Output errors of AWQ for int4 weights in groups; codes -7 to 7 on both sides."""
    mtq: Any = import_module("modelopt.torch.quantization")
    weight = {"num_bits": 4, "narrow_range": True, "block_sizes": {-1: GROUP, "type": "static"}}
    scheme = TensorScheme(4, granularity="per_group", group_size=GROUP)
    for name in LINEAR_MODELS:
        for case in cases(name):
            plain = _error(case, quantize_model(case.model, case.x, Recipe(scheme))(case.x))
            ours = quantize_model(case.model, case.x, Recipe(scheme, remedies=(Awq(),)))
            row = [case.name, f"{plain:.4f}"]
            for method in ("max", "awq_lite", "awq_full"):
                layer = _by_modelopt(mtq, case, weight, None, method)
                row.append(f"{_error(case, layer(case.read)):.4f}")
            yield [*row, f"{_error(case, ours(case.x)):.4f}"]


def gptq_rows() -> Rows:
    """Codes and output errors of GPTQ on the same layer, Hessian, grid and order of columns."""
    quantize: Any = import_module("llmcompressor.modifiers.gptq.gptq_quantize")
    args: Any = import_module("compressed_tensors.quantization").QuantizationArgs
    for scheme in (
        TensorScheme(4, symmetric=False, granularity="per_channel"),
        TensorScheme(3, symmetric=False, granularity="per_channel"),
        TensorScheme(4, symmetric=False, granularity="per_group", group_size=GROUP),
    ):
        for name in LINEAR_MODELS:
            same = weights = 0
            errors: list[list[float]] = []
            for case in cases(name):
                x, grid_recipe = case.read, Recipe(scheme)
                plain, ours = (
                    _layer(quantize_model(case.linear, x, recipe))
                    for recipe in (grid_recipe, grid_recipe.with_remedy(Gptq()))
                )
                grid = ours.weight_qparams
                shape = (case.linear.out_features, -1)
                found, _, fell_back = quantize.quantize_weight(
                    case.linear.weight.detach()[None].clone(),
                    (x.T @ x)[None],
                    grid.scale.reshape(shape)[None].clone(),
                    grid.zero_point.reshape(shape)[None].float(),
                    None,
                    args(
                        num_bits=scheme.bits,
                        symmetric=False,
                        strategy="channel" if scheme.group_size is None else "group",
                        group_size=scheme.group_size,
                        actorder="static",
                    ),
                )
                assert not fell_back.any()
                theirs = found[0]
                same += int((theirs - ours.dequantized_weight()).abs().lt(1e-6).sum())
                weights += theirs.numel()
                errors.append(
                    [
                        _relative(x @ case.linear.weight.T, x @ weight.T)
                        for weight in (
                            plain.dequantized_weight(),
                            theirs,
                            ours.dequantized_weight(),
                        )
                    ]
                )
            mean = torch.tensor(errors).mean(dim=0).tolist()
            yield [
                name,
                str(len(errors)),
                f"{scheme.bits} bits {scheme.granularity_name}",
                f"{100 * same / weights:.2f} %",
                *(f"{value:.5f}" for value in mean),
            ]


def _by_modelopt(mtq: Any, case: Case, weight: object, inputs: object, algorithm: object) -> Any:
    """Return the linear layer as ModelOpt quantizes it."""
    chosen = [
        {"quantizer_name": "*", "enable": False},
        {"quantizer_name": "*weight_quantizer", "cfg": weight},
    ]
    if inputs is not None:
        chosen.append({"quantizer_name": "*input_quantizer", "cfg": inputs})
    model, x = nn.Sequential(copy.deepcopy(case.linear)), case.read
    with redirect_stdout(StringIO()):
        settings = {"quant_cfg": chosen, "algorithm": algorithm}
        return mtq.quantize(model, settings, lambda quantized: quantized(x))[0]


def _treatments(model: nn.Module, x: Tensor, recipe: Recipe) -> tuple[Treatment, ...]:
    return analyze(model, x, recipe, measure_time=False).treatments


def _layer(model: nn.Module) -> QuantizedLayer:
    (layer,) = [m for m in model.modules() if isinstance(m, QuantizedLayer)]
    return layer


def _error(case: Case, found: Tensor) -> float:
    with torch.no_grad():
        return _relative(case.model(case.x).flatten(0, -2), found.flatten(0, -2))


def _relative(expected: Tensor, found: Tensor) -> float:
    """Return √(Σ(y - ŷ)² / Σy²)."""
    difference = (found - expected).double().square().sum()
    return float((difference / expected.double().square().sum()).sqrt())


def _load(name: str) -> nn.Module:
    model: nn.Module = get_model_info(name).load()
    return model


def _calibration(name: str) -> Tensor:
    return get_model_info(name).load_inputs("calibration")[0][:CALIBRATION_SAMPLES]


COMPARISONS: dict[str, tuple[str, tuple[str, ...], Callable[[], Rows]]] = {
    "equalization": (
        "aimet-torch",
        ("model", "pairs", "pairs of ours", "largest relative difference of a factor"),
        equalization_rows,
    ),
    "smoothing": (
        "nvidia-modelopt",
        ("model", "layers", "α", "largest relative difference of a factor"),
        smoothing_rows,
    ),
    "awq": (
        "nvidia-modelopt",
        ("layer", "rounding", "ModelOpt: rounding", "factors", "factors, ranges", "ours"),
        awq_rows,
    ),
    "gptq": (
        "llmcompressor",
        ("model", "layers", "weights", "same codes", "error: rounding", "theirs", "ours"),
        gptq_rows,
    ),
}

if __name__ == "__main__":
    main()
