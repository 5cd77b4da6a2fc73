"""Bytes and times."""
