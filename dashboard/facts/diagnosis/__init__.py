"""What is wrong with a layer, why, and what repairs it."""
