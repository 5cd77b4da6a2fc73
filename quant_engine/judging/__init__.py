"""What a model's answer means: which output counts, how it is read, what reaches it."""

from quant_engine.judging.reach import NO_PATH

__all__ = ["NO_PATH"]
