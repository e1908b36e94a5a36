"""The stages of the checkpoint "motion"."""
