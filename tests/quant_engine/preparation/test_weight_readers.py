"""Layers that are never called, because a function reads their weight, say which one does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_engine import PRESETS, LogitResponse, analyze, calibrate
from quant_engine.preparation.folding_check import prepare_for
from quant_engine.preparation.weight_readers import find_readers
from tests.quant_engine.layer_cases import fill, seeded

X = seeded((4, 6))


class Attention(nn.Module):
    """Reads the weights of its layers by functions, as CLIP's attention pool does."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.out = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        scores = F.linear(x, self.q.weight, self.q.bias) @ (x @ self.k.weight.T).T
        y: Tensor = self.out(scores.softmax(-1) @ x)
        return y


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([Attention(), Attention()])
        self.idle, self.shaped = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return x[:, : self.shaped.weight.shape[0]]


class Standardized(nn.Module):
    """Standardizes the kernel of a convolution before every use, as NFNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.convolution.weight.reshape(1, 4, -1)
        weight = F.batch_norm(weight, None, None, training=True)
        y = F.conv2d(x, weight.reshape(4, 3, 3, 3))
        z: Tensor = self.head(y.mean((2, 3)))
        return z


class Decoding(nn.Module):
    """Its decoder is never called: the embedding's weight, which is the same, is read."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.middle = nn.Embedding(10, 6), nn.Linear(6, 6)
        self.decoder = nn.Linear(6, 10, bias=False)
        self.decoder.weight = self.embed.weight

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(self.middle(self.embed(x)), self.decoder.weight.t())


class Pool(nn.Module):
    """Hands the weights of its layers to torch's attention, as CLIP's pool does."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.c = (nn.Linear(6, 6) for _ in range(4))
        self.head = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = F.multi_head_attention_forward(
            x[:, None], x[:, None], x[:, None], 6, 2, None,
            torch.cat([self.q.bias, self.k.bias, self.v.bias]), None, None, False, 0.0,
            self.c.weight, self.c.bias, training=False, use_separate_proj_weight=True,
            q_proj_weight=self.q.weight, k_proj_weight=self.k.weight, v_proj_weight=self.v.weight,
        )  # fmt: skip
        z: Tensor = self.head(y[:, 0])
        return z


def readers_of(model: nn.Module, x: Tensor) -> dict[str, str]:
    return dict(calibrate(fill(model).eval(), x).readers)


def test_the_function_and_the_module_that_runs_it_are_named() -> None:
    found = readers_of(Blocks(), X)

    assert found == {
        "layers.0.q": "its weight is read by `F.linear` in `layers.0`",
        "layers.0.k": "its weight is read by `torch.Tensor.matmul` in `layers.0`",
        "layers.1.q": "its weight is read by `F.linear` in `layers.1`",
        "layers.1.k": "its weight is read by `torch.Tensor.matmul` in `layers.1`",
    }


def test_a_standardized_kernel_is_read_by_what_standardizes_it() -> None:
    found = readers_of(Standardized(), seeded((4, 3, 5, 5)))
    assert found == {
        "convolution": "its weight is read by `F.batch_norm` in the model's own forward"
    }


def test_a_decoder_that_is_tied_and_not_called_names_a_reader_of_the_shared_weight() -> None:
    found = readers_of(Decoding(), torch.arange(8).reshape(2, 4))
    assert found == {"decoder": "its weight is read by `F.embedding` in `embed`"}


def test_layers_handed_to_torchs_attention_name_it() -> None:
    found = readers_of(Pool(), X)
    words = "its weight is read by `F.multi_head_attention_forward` in the model's own forward"
    assert found == dict.fromkeys(("q", "k", "v", "c"), words)


def test_reports_say_it_and_repeated_blocks_are_one_group() -> None:
    model = fill(Blocks()).eval()
    report = analyze(model, X, measure_time=False)
    response = LogitResponse.measure(model, X, agreement_configurations=2)

    reason = "its weight is read by `F.linear` in `layers.1`"
    assert report.layer("layers.1.q").is_quantized
    assert (
        report.layer("layers.1.q").reason == f"weight-only, since {reason}: its input stays float"
    )
    assert dict(response.report.skipped)["layers.1.q"].startswith(reason)
    assert report.layer("idle").reason.startswith("it never ran on the calibration data")
    assert report.layer("shaped").reason.startswith("it never ran on the calibration data")
    groups = {group.layers: group.reason for group in report.coverage.left_out}
    assert groups.keys() == {("idle", "shaped")}
    assert groups["idle", "shaped"] == report.layer("idle").reason


def test_a_dynamic_recipe_says_it_of_layers_that_hold_codes_too() -> None:
    report = analyze(fill(Blocks()).eval(), X, PRESETS["int8_dynamic"], measure_time=False)

    read = report.layer("layers.1.q")
    assert read.is_quantized
    assert "its weight is read by `F.linear` in `layers.1`" in read.reason
    assert report.layer("idle").reason == "it never ran on the calibration data"
    assert report.layer("layers.1.out").reason == ""


def test_looking_leaves_the_model_as_it_was() -> None:
    prepared, _, _ = prepare_for(fill(Blocks()).eval(), X)
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in prepared.model.modules()]
    find_readers(prepared, prepared.samples, ["layers.0.q"])
    after = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in prepared.model.modules()]
    assert after == hooks


@pytest.mark.parametrize("preset", ["int8_weights_only", "int8_dynamic"])
def test_a_recipe_without_calibrated_ranges_quantizes_what_is_read(preset: str) -> None:
    report = analyze(fill(Blocks()).eval(), X, PRESETS[preset], measure_time=False)
    assert report.layer("layers.0.q").is_quantized
