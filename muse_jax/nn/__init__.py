"""Building blocks of networks: attention, norms, positions, heads, convolutions."""
