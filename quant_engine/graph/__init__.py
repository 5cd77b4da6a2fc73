"""The one graph of a model: what its forward computes, captured by running it once."""
