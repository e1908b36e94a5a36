"""Muse: masked generative transformers (Chang et al. 2023)."""
