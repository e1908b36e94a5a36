"""The stages of the shipped checkpoint "icons"."""
