"""Two runs in one figure."""
