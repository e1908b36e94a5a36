"""The stages of the shipped checkpoints "emoji" and "emoji-cogview2"."""
