"""Lowering: keeping activations in int8 between the layers of a quantized model."""
