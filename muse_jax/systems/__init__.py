"""Generative systems, one folder each."""
