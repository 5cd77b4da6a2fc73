"""One layer: its weights, its inputs, its errors."""
