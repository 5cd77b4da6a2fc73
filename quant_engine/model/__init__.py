"""The caller's model and data: batches, inputs, copies and forward passes."""
