"""Run directories, pretrained directories, and where weights come from."""
