"""Device meshes, sharding of parameters and batches, and processes."""
