"""Generative systems, one folder each: networks, tasks, pipeline and converters."""
