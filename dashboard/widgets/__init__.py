"""Pieces of page that several pages draw."""
