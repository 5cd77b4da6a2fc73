"""Bytes and times of a run."""
