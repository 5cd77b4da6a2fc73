"""Configurations: bytes against error, prediction against runs."""
