"""Muse at the paper's sizes."""
