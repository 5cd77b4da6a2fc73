"""What repairs layers that quantization breaks, one remedy a file."""

from quant_engine.remedies.apply import treat_float_model, treat_quantized_model

__all__ = ["treat_float_model", "treat_quantized_model"]
