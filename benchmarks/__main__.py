"""`python -m benchmarks`: print the figures, and store them as JSON where asked to."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import benchmarks.topics  # registers them  # noqa: F401
from benchmarks.memory import keep_freed_memory
from benchmarks.registry import Options, list_topics
from quant_engine.execution.clock import describe_environment
from sample_models import list_models


def main() -> None:
    """Measure what the command line asks for."""
    parsed = _parse()
    options = Options(
        models=tuple(list_models() if parsed.all else parsed.models),
        rounds=parsed.rounds,
        samples=parsed.samples,
        batch_size=parsed.batch_size,
        cold_rounds=parsed.cold_rounds,
    )
    environment = asdict(describe_environment()) | {"keeps freed memory": keep_freed_memory()}
    print(", ".join(f"{key}: {value}" for key, value in environment.items()))
    result = {name: topic(options) for name, topic in list_topics().items() if name in parsed.only}
    if parsed.json:
        text = json.dumps({"environment": environment, **result}, indent=2)
        parsed.json.write_text(text + "\n", encoding="utf-8")


def _parse() -> argparse.Namespace:
    topics = list_topics()
    about = "\n".join(
        f"  {name:<14}{(topic.__doc__ or '').splitlines()[0]}" for name, topic in topics.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\n\ntopics:\n{about}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    default = Options()
    parser.add_argument(
        "--only", nargs="+", choices=list(topics), default=list(topics), help="topics (all)"
    )
    parser.add_argument(
        "--models", nargs="+", choices=list_models(), default=default.models, metavar="MODEL"
    )
    parser.add_argument("--all", action="store_true", help="all sample models")
    parser.add_argument(
        "--rounds", type=_positive, default=default.rounds, help="timed rounds (%(default)s)"
    )
    parser.add_argument(
        "--samples", type=_positive, default=default.samples, help="long stream (%(default)s)"
    )
    parser.add_argument(
        "--batch-size", type=_positive, default=default.batch_size, help="samples (%(default)s)"
    )
    parser.add_argument(
        "--cold-rounds",
        type=int,
        default=default.cold_rounds,
        help="fresh processes a model (%(default)s); 0 for none",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures here")
    return parser.parse_args()


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


if __name__ == "__main__":
    main()
