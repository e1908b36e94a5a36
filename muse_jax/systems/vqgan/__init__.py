"""VQGAN: image tokenizers (Esser et al. 2021)."""
