"""A PyTorch state dict of I3D with random weights."""

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from muse_jax.nn.i3d import I3D, MIN_FRAMES
from muse_jax.nn.shapes import abstract_params


def random_state(seed=0):
    """Tensors by their PyTorch names, scaled so that activations keep their size."""
    rng, state = np.random.default_rng(seed), {}
    shapes = abstract_params(I3D(), jnp.zeros((1, MIN_FRAMES, 224, 224, 3)))
    for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items():
        if not path.endswith("conv3d/kernel"):
            continue
        name, (*window, inputs, outputs) = path[: -len("/conv3d/kernel")].replace("/", "."), leaf.shape
        scale = np.sqrt(2 / (np.prod(window) * inputs))
        state[f"{name}.conv3d.weight"] = rng.normal(0, scale, (outputs, inputs, *window))
        state[f"{name}.bn.weight"] = rng.uniform(0.8, 1.2, outputs)
        state[f"{name}.bn.running_var"] = rng.uniform(0.8, 1.2, outputs)
        state[f"{name}.bn.num_batches_tracked"] = np.zeros(())
        for part in ("bias", "running_mean"):
            state[f"{name}.bn.{part}"] = rng.normal(0, 0.1, outputs)
    state["logits.conv3d.weight"] = rng.normal(0, 1 / 32, (400, 1024, 1, 1, 1))
    state["logits.conv3d.bias"] = rng.normal(0, 1, 400)
    return {name: tensor.astype(np.float32) for name, tensor in state.items()}
