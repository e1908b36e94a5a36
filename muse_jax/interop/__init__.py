"""Readers of weights that other libraries wrote."""
