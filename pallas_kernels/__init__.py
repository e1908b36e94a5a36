"""Kernels in Pallas for TPU and GPU, each with an XLA form and a plain reference."""
