"""Configs, one folder a system or checkpoint, one file a stage."""
