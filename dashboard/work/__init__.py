"""Calls into the engine and the sample models, in threads and on a cluster."""
