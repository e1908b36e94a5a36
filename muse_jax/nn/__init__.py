"""Building blocks of networks: attention, norms, positions, convolutions."""
