"""Run directories, pretrained directories, and sources of weights."""
