"""What lessons compute with the engine, and the numbers that are stored for them."""
