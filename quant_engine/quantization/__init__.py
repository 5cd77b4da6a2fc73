"""From a prepared model to a quantized one: calibration, conversion, size, file."""
