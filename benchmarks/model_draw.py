"""Draw models that nobody chose, to see whether what holds on `model_list.txt` holds elsewhere.

    python -m benchmarks.model_draw > benchmarks/model_draw.txt

A seed shuffles all models of timm and all transformers classes for the tasks below; those of the
list are left out, and of the rest the first that are small enough here, and whose own float forward
takes the batch that is made for them, are kept. What quantization does to them plays no part.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import random
import warnings
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

import torch

from benchmarks.model_zoo import Entry, build, make_batch, read_list

SEED = 20
TIMM, TRANSFORMERS = 20, 10  # how many are drawn
_MOST_TIMM, _MOST_TRANSFORMERS = 12_000_000, 1_000_000  # parameters

_TASKS = (
    "SEQUENCE_CLASSIFICATION",
    "CAUSAL_LM",
    "MASKED_LM",
    "SEQ_TO_SEQ_CAUSAL_LM",
    "IMAGE_CLASSIFICATION",
    "AUDIO_CLASSIFICATION",
    "CTC",
)

# The settings that make a class small, where its configuration has them as one number.
_SMALL: Mapping[str, int] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "embed_dim", "embedding_size", "dim"), 32),
    **dict.fromkeys(("intermediate_size", "d_ff", "ffn_dim", "n_inner", "hidden_dim"), 64),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "moe_intermediate_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_experts_per_tok", "n_group"), 2),
    **dict.fromkeys(("head_dim", "d_kv", "patch_size"), 8),
    "vocab_size": 100,
    "image_size": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
}


def draw(seed: int = SEED) -> tuple[Entry, ...]:
    """Draw models of both libraries; the same with the same seed and the same libraries."""
    known = {entry.name for entry in read_list()}
    found: list[Entry] = []
    for candidates, count, most in (
        (_timm(), TIMM, _MOST_TIMM),
        (_transformers(), TRANSFORMERS, _MOST_TRANSFORMERS),
    ):
        order = [entry for entry in candidates if entry.name not in known]
        random.Random(seed).shuffle(order)
        found += islice(_usable(order, most), count)
    return tuple(sorted(found, key=lambda entry: (entry.library, entry.family, entry.name)))


def _timm() -> list[Entry]:
    timm = importlib.import_module("timm")
    return [
        Entry("timm", name, family=timm.models.model_entrypoint(name).__module__.split(".")[-1])
        for name in sorted(timm.list_models())
    ]


def _transformers() -> list[Entry]:
    auto = importlib.import_module("transformers.models.auto.modeling_auto")
    names = {
        name
        for task in _TASKS
        for value in getattr(auto, f"MODEL_FOR_{task}_MAPPING_NAMES").values()
        for name in ([value] if isinstance(value, str) else value)
    }
    return [Entry("transformers", name) for name in sorted(names)]


def _usable(candidates: Iterable[Entry], most: int) -> Iterator[Entry]:
    """Yield those that have at most so many parameters and run in float on their batch."""
    for entry in candidates:
        with contextlib.suppress(Exception):  # whatever its own code says, it is not drawn
            small = _with_small_settings(entry) if entry.library == "transformers" else entry
            with torch.device("meta"):
                if sum(p.numel() for p in build(small).parameters()) > most:
                    continue
            model = build(small)
            batch = make_batch(model, 2)
            with torch.no_grad():
                model(**batch) if isinstance(batch, Mapping) else model(batch)
            yield small


def _with_small_settings(entry: Entry) -> Entry:
    kind = getattr(importlib.import_module("transformers"), entry.name)
    default: dict[str, Any] = kind.config_class().to_dict()
    settings: dict[str, Any] = {
        name: value
        for name, value in _SMALL.items()
        if isinstance(default.get(name), int) or (name.endswith("token_id") and name in default)
    }
    for name, first in (("hidden_sizes", 16), ("depths", 1)):
        if isinstance(default.get(name), list | tuple):
            count = len(default[name])
            settings[name] = [first << i for i in range(count)] if first > 1 else [1] * count
    return Entry("transformers", entry.name, settings=json.dumps(settings))


def main() -> None:
    """Print the lines of the drawn list."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"# Drawn by `python -m benchmarks.model_draw`, seed {SEED}, with the libraries pinned")
    print("# in model_list.txt. No line is chosen or removed by hand.\n")
    for entry in draw():
        print(entry.library, entry.family, entry.name) if entry.family else print(
            entry.library, entry.name, entry.settings
        )


if __name__ == "__main__":
    main()
