"""Figures of lessons that no other page has."""
