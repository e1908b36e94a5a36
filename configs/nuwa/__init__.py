"""Paper-size experiments of NUWA."""
