"""Build a model of `model_list.txt` with random weights, and a batch for it.

Needs timm and transformers: `pip install -e .[models]`.
"""

from __future__ import annotations

import importlib
import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

_SIDE = 96  # of an image, in pixels, for models that take any
LIST = Path(__file__).with_name("model_list.txt")
DRAWN = Path(__file__).with_name("model_draw.txt")


@dataclass(frozen=True)
class Entry:
    """One line of the list: the library, the model, and timm's family or the settings."""

    library: str
    name: str
    family: str = ""
    settings: str = "{}"


def read_list(path: Path = LIST) -> tuple[Entry, ...]:
    """Read every line that is neither empty nor a comment."""
    entries = []
    for line in path.read_text(encoding="utf-8").splitlines():
        match line.split(maxsplit=2):
            case ["timm", family, name]:
                entries.append(Entry("timm", name, family=family))
            case ["transformers", name, settings]:
                entries.append(Entry("transformers", name, settings=settings))
    return tuple(entries)


def build(entry: Entry, *, seed: int = 0) -> nn.Module:
    """Build the model in eval mode, its random weights drawn by the seed."""
    torch.manual_seed(seed)
    if entry.library == "timm":
        return importlib.import_module("timm").create_model(entry.name).eval()
    kind = getattr(importlib.import_module("transformers"), entry.name)
    return kind(kind.config_class(**json.loads(entry.settings))).eval()


def make_batch(model: nn.Module, samples: int, *, seed: int = 0) -> dict[str, Tensor] | Tensor:
    """Draw noise that the model takes: an image for timm, keyword arguments for transformers."""
    generator = torch.Generator().manual_seed(seed)
    if hasattr(model, "default_cfg"):
        return torch.randn(samples, *_image_of_timm(model), generator=generator)
    config: Any = model.config
    noise = {
        "pixel_values": lambda: torch.randn(samples, 3, *_image_size(config), generator=generator),
        "input_values": lambda: torch.randn(samples, *_audio_shape(config), generator=generator),
        "input_features": lambda: torch.randn(
            samples, config.num_mel_bins, 64, generator=generator
        ),
        "input_ids": lambda: _tokens(config, samples, 16, generator),
    }
    names = {model.main_input_name}
    if hasattr(config, "vision_config"):  # A model of text and images takes both.
        names |= {"input_ids", "pixel_values"}
    batch = {name: draw() for name, draw in noise.items() if name in names}
    if config.is_encoder_decoder:
        batch["decoder_input_ids"] = _tokens(config, samples, 8, generator)
    return _with_mask(model, batch)


def _with_mask(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the mask that a tokenizer makes if the model takes it; the last sample is shorter.

    Some classes fail with a mask themselves: they get none.
    """
    tokens = batch.get("input_ids")
    if tokens is None or "attention_mask" not in inspect.signature(model.forward).parameters:
        return batch
    mask = torch.ones_like(tokens)
    mask[-1, -(tokens.shape[1] // 4) :] = 0
    try:
        with torch.no_grad():
            model(**batch, attention_mask=mask)
    except (RuntimeError, ValueError, IndexError):
        return batch
    return {**batch, "attention_mask": mask}


def _image_of_timm(model: nn.Module) -> tuple[int, ...]:
    """Return the shape of an image: small if the model computes with that, else its own size."""
    settings: Any = model.default_cfg
    channels, height, width = settings["input_size"]
    side = max(_SIDE, *settings.get("min_input_size") or (0,))
    if side < height and not settings.get("fixed_input_size"):
        try:
            with torch.no_grad():
                model(torch.zeros(1, channels, side, side))
            return channels, side, side
        except (RuntimeError, AssertionError):  # its windows or its tables do not fit
            pass
    return channels, height, width


def _tokens(config: Any, samples: int, length: int, generator: torch.Generator) -> Tensor:
    """Draw tokens that are none of the special ones, which stand first in every tiny vocabulary."""
    known = getattr(getattr(config, "text_config", config), "vocab_size", 100)
    return torch.randint(3, min(known, 100), (samples, length), generator=generator)


def _image_size(config: Any) -> tuple[int, int]:
    size = getattr(getattr(config, "vision_config", config), "image_size", None) or 64
    side = min(size if isinstance(size, int) else size[0], 64)
    return side, side


def _audio_shape(config: Any) -> tuple[int, ...]:
    """Say the shape of a spectrogram where the model takes one, else of 2,000 samples of a wave."""
    if hasattr(config, "max_length") and hasattr(config, "num_mel_bins"):
        return config.max_length, config.num_mel_bins
    return (2000,)


def _make_torchvision_importable() -> None:
    """Declare the box operators that torchvision looks up, where its compiled part did not load.

    A torchvision built for another torch lacks them; no model of the list calls one.
    """
    library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)


_kept: list[Any] = []  # A library that is collected takes its definitions along.
_make_torchvision_importable()
