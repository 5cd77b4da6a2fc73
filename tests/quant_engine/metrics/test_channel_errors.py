"""Errors over the RMS of their channel: against plain numpy, whatever the cuts and their order."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import quant_engine
from quant_engine import Recipe, TensorScheme
from quant_engine.errors import DataError
from quant_engine.metrics.channel_errors import (
    HIGHEST,
    LOWEST,
    ChannelErrorStats,
    input_axis,
    output_axis,
)

SHAPE = (40, 6, 5, 5)


def signal_and_error(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Channels whose sizes differ a thousandfold; the last is 0, every tenth value is exact."""
    scales = torch.tensor([1e-3, 0.1, 1.0, 10.0, 1.0, 0.0])[:, None, None]
    x = torch.randn(SHAPE, generator=generator) * scales
    noise = 0.05 * torch.randn(SHAPE, generator=generator) * (scales + 1e-3)
    noise[::10] = 0.0
    return x, x + noise


def counted(x: Tensor, x_hat: Tensor, sizes: tuple[int, ...]) -> ChannelErrorStats:
    stats = ChannelErrorStats(-3)
    for a, b in zip(x.split(list(sizes)), x_hat.split(list(sizes)), strict=True):
        stats.update(a, b)
    return stats


def test_shift_is_the_share_of_the_error_that_is_constant(generator: torch.Generator) -> None:
    x, x_hat = signal_and_error(generator)
    x_hat = x_hat + torch.tensor([0.0, 0.01, 0.0, 1.0, 0.0, 0.0])[:, None, None]
    whole, cut = (counted(x, x_hat, sizes) for sizes in ((40,), (13, 27)))
    merged = counted(x[:13], x_hat[:13], (13,))
    merged.merge(counted(x[13:], x_hat[13:], (27,)))

    error = (x_hat - x).double().movedim(1, 0).flatten(1).numpy()
    expected = (error.mean(axis=1) ** 2 / (error**2).mean(axis=1)).mean()

    for stats in (whole, cut, merged):
        report = stats.relative()
        assert report is not None
        assert report.shift == pytest.approx(expected, rel=1e-4)
    assert counted(x, x, (40,)).relative().shift == 0.0  # type: ignore[union-attr]
    assert counted(x, x + 1.0, (40,)).relative().shift == pytest.approx(1.0, abs=1e-5)  # type: ignore[union-attr]


def test_counts_agree_with_numpy_on_the_whole_data(generator: torch.Generator) -> None:
    x, x_hat = signal_and_error(generator)

    report = counted(x, x_hat, (40,)).relative()

    assert report is not None
    values, error = (t.double().movedim(1, 0).flatten(1).numpy() for t in (x, x_hat - x))
    rms = np.sqrt((values**2).mean(axis=1))[:5, None]
    octaves = np.log2(
        np.abs(error[:5])[np.abs(error[:5]) > 0]
        / np.broadcast_to(rms, error[:5].shape)[np.abs(error[:5]) > 0]
    )
    edges = LOWEST + 0.5 * np.arange(2 * (HIGHEST - LOWEST) + 1)
    expected, _ = np.histogram(octaves, edges)
    # Counting in quarter octaves moves a value by an eighth of an octave at most.
    moved = np.abs(np.cumsum(report.counts) - np.cumsum(expected)).max()
    assert moved <= 0.12 * expected.sum()
    assert sum(report.counts) + report.below + report.above + report.exact == error[:5].size
    assert report.exact == int((error[:5] == 0).sum())
    assert (report.channels, report.flat_channels) == (6, 1)
    nmse = (error[:5] ** 2).sum(axis=1) / (values[:5] ** 2).sum(axis=1)
    assert report.rms == pytest.approx(math.sqrt(nmse.mean()), rel=1e-5)
    assert report.lost_channels == int((nmse >= 0.5).sum())


def test_a_known_error_falls_into_its_bin() -> None:
    x = torch.ones(8, 2)
    x_hat = x + torch.tensor([2.0**-3 * 1.1, 2.0**-6 * 1.1])

    stats = ChannelErrorStats(-1)
    stats.update(x, x_hat)
    report = stats.relative()

    assert report is not None
    places = {2 * (-3 - LOWEST): 8, 2 * (-6 - LOWEST): 8}
    assert {i: n for i, n in enumerate(report.counts) if n} == places


@pytest.mark.parametrize("sizes", [(7, 33), (1, 1, 38), (20, 20)])
def test_parts_merge_into_the_whole(generator: torch.Generator, sizes: tuple[int, ...]) -> None:
    x, x_hat = signal_and_error(generator)
    whole = counted(x, x_hat, (40,)).relative()
    parts = ChannelErrorStats(-3)
    for a, b in zip(x.split(list(sizes)), x_hat.split(list(sizes)), strict=True):
        other = ChannelErrorStats(-3)
        other.update(a, b)
        parts.merge(other)

    merged = parts.relative()

    assert whole is not None
    assert merged is not None
    assert (
        merged.counts
        == whole.counts
        == getattr(counted(x, x_hat, sizes).relative(), "counts", None)
    )
    assert merged.rms == pytest.approx(whole.rms, rel=1e-6)  # sums over positions are float32


def test_counts_beyond_32_bits_are_kept() -> None:
    x = torch.ones(8, 2)
    stats, other = ChannelErrorStats(-1), ChannelErrorStats(-1)
    for part in (stats, other):
        part.update(x, x + 0.25)
        part._counts *= 2**27
        part._values *= 2**27

    stats.merge(other)
    stats.update(x, x + 0.25)

    report = stats.relative()
    assert report is not None
    assert sum(report.counts) + report.above == 2 * (2 * 8 * 2**27 + 8)


def test_nothing_seen_has_no_report_and_an_empty_batch_counts_nothing() -> None:
    stats = ChannelErrorStats(-1)
    stats.update(torch.zeros(0, 3), torch.zeros(0, 3))

    assert stats.relative() is None


@pytest.mark.parametrize(
    ("shape", "axis", "samples", "channels"),
    [
        ((30, 7), -1, 30, 7),
        ((5, 11, 7), -1, 5, 7),
        ((3, 4, 9, 400), -3, 3, 4),
        ((3, 9, 4), -2, 3, 9),
        ((6, 8, 8), -3, 1, 6),  # one image without an axis of samples
        ((7,), -1, 1, 7),
        ((5, 3, 4), None, 5, 1),
        ((200, 50, 30), -1, 200, 30),  # several pieces
    ],
)
@pytest.mark.parametrize("size", [1e-20, 1.0, 1e20])
def test_figures_equal_numpys_in_float64(
    shape: tuple[int, ...],
    axis: int | None,
    samples: int,
    channels: int,
    size: float,
    generator: torch.Generator,
) -> None:
    x = torch.randn(shape, generator=generator) * size
    x_hat = x + 0.01 * size * torch.randn(shape, generator=generator)
    x_hat.reshape(-1)[::5] = x.reshape(-1)[::5]

    stats = ChannelErrorStats(axis)
    stats.update(x, x_hat)

    found, relative = stats.pooled.metrics(), stats.relative()
    before, after = x.double().numpy(), x_hat.double().numpy()
    assert relative is not None
    assert found.nmse == pytest.approx(((after - before) ** 2).sum() / (before**2).sum(), rel=1e-5)
    assert found.mse == pytest.approx(((after - before) ** 2).mean(), rel=1e-5)
    assert found.max_abs_error == pytest.approx(np.abs(after - before).max(), rel=1e-5)
    rows = [t.reshape(samples, -1) for t in (before, after)]
    cosines = (rows[0] * rows[1]).sum(1) / np.sqrt((rows[0] ** 2).sum(1) * (rows[1] ** 2).sum(1))
    assert found.cosine == pytest.approx(cosines.mean(), abs=1e-6)
    assert stats.pooled.samples == samples
    assert (relative.channels, relative.exact) == (channels, x.reshape(-1)[::5].numel())
    whole = x.dim() if axis is None else -axis
    own = [
        np.moveaxis(t, x.dim() - whole, 0).reshape(channels, -1) if axis else t.reshape(1, -1)
        for t in (before, after)
    ]
    nmse = ((own[1] - own[0]) ** 2).sum(1) / (own[0] ** 2).sum(1)
    assert relative.rms == pytest.approx(math.sqrt(nmse.mean()), rel=1e-5)


def test_values_that_are_no_numbers_are_refused_and_the_layer_is_named() -> None:
    class Overflowing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.loud, self.last = nn.Linear(2, 2, bias=False), nn.Linear(2, 2)
            nn.init.constant_(self.loud.weight, 3e38)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.loud(x).clamp(-1.0, 1.0))  # type: ignore[no-any-return]

    with pytest.raises(DataError, match="output of layer 'loud' holds NaN or Inf"):
        quant_engine.analyze(Overflowing(), torch.full((4, 2), 9.0), measure_time=False)


def test_axes_of_layers() -> None:
    assert (input_axis(nn.Linear(2, 2)), output_axis(nn.Linear(2, 2))) == (-1, -1)
    assert (input_axis(nn.Conv1d(2, 2, 1)), output_axis(nn.Conv1d(2, 2, 1))) == (-2, -2)
    assert (input_axis(nn.Embedding(3, 2)), output_axis(nn.Embedding(3, 2))) == (None, -1)


class TestReports:
    """What `analyze` keeps of it."""

    def report(self, granularity: str) -> quant_engine.ModelReport:
        generator = torch.Generator().manual_seed(3)
        layer = nn.Linear(4, 6)
        with torch.no_grad():
            assert layer.bias is not None
            layer.bias.zero_()
            layer.weight.copy_(torch.randn(6, 4, generator=generator))
            layer.weight[:3] *= 1e-3  # below half a step of the others' scale
        x = torch.randn(50, 4, generator=generator) * torch.tensor([1.0, 1.0, 90.0, 1.0])
        scheme = TensorScheme(granularity=granularity)  # type: ignore[arg-type]
        recipe = Recipe(scheme, TensorScheme(symmetric=False))
        return quant_engine.analyze(nn.Sequential(layer), x, recipe, measure_time=False)

    def test_one_scale_silences_small_channels_and_one_for_each_does_not(self) -> None:
        broken = self.report("per_tensor").layers[0]
        healthy = self.report("per_channel").layers[0]

        assert broken.weight is not None and broken.weight.channels is not None  # noqa: PT018
        assert healthy.weight is not None and healthy.weight.channels is not None  # noqa: PT018
        assert broken.weight.channels.silent == (0, 1, 2)
        assert sum(broken.weight.channels.became_zero) >= 12
        assert broken.weight.channels.channel_size == 4
        assert healthy.weight.channels.silent == ()
        first = broken.weight.example
        assert first.value != 0.0
        assert (first.dequantized, first.code) == (0.0, 0)
        assert broken.weight.examples[0] == first
        promised = broken.weight.per_channel_sqnr_db
        own = [10 ** (-s / 10) for s in healthy.weight.channels.sqnr_db]
        assert promised == pytest.approx(-10 * math.log10(sum(own) / len(own)), abs=1e-4)
        assert healthy.weight.per_channel_sqnr_db is None
        assert broken.local_relative is not None and healthy.local_relative is not None  # noqa: PT018
        assert broken.local_relative.rms > 3 * healthy.local_relative.rms

    def test_input_channels_and_answers(self) -> None:
        report = self.report("per_channel")
        channels, output = report.layers[0].input_channels, report.output

        assert channels is not None
        assert channels.axis == -1
        assert max(range(4), key=lambda i: channels.hi[i]) == 2
        assert output is not None and output.answers is not None  # noqa: PT018
        answers = output.answers
        assert len(answers.float) == len(answers.quantized) == 50
        assert answers.labels == ()
        assert len(answers.flipped) == round(50 * (1 - (output.top1_agreement or 0)))
        assert quant_engine.ModelReport.from_json(report.to_json()) == report
