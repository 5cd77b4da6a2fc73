"""Ways to compute a quantized model: simulated, integer, lowered; and their times."""
