"""A PyTorch state dict of the FID's Inception-v3 with random weights."""

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from muse_jax.nn.inception import InceptionV3
from muse_jax.nn.shapes import abstract_params


def random_state(seed=0):
    """Tensors by their PyTorch names, scaled so that activations keep their size."""
    rng, state = np.random.default_rng(seed), {}
    shapes = abstract_params(InceptionV3(), jnp.zeros((1, 299, 299, 3)))
    for path, leaf in traverse_util.flatten_dict(shapes, sep="/").items():
        if path.endswith("kernel"):
            name, (height, width, inputs, outputs) = (
                path[: -len("/conv/kernel")].replace("/", "."),
                leaf.shape,
            )
            scale = np.sqrt(2 / (height * width * inputs))
            state[f"{name}.conv.weight"] = rng.normal(0, scale, (outputs, inputs, height, width))
            state[f"{name}.bn.weight"] = rng.uniform(0.8, 1.2, outputs)
            state[f"{name}.bn.running_var"] = rng.uniform(0.8, 1.2, outputs)
            for part in ("bias", "running_mean"):
                state[f"{name}.bn.{part}"] = rng.normal(0, 0.1, outputs)
    state["fc.weight"] = rng.normal(0, 1 / np.sqrt(2048), (1008, 2048))
    state["fc.bias"] = rng.normal(0, 1, 1008)
    return {name: tensor.astype(np.float32) for name, tensor in state.items()}


def torch_state(state):
    """The same as PyTorch tensors, with the counters that its batch norms want."""
    import torch

    tensors = {name: torch.from_numpy(tensor) for name, tensor in state.items()}
    counters = [
        name.replace("weight", "num_batches_tracked") for name in tensors if name.endswith("bn.weight")
    ]
    return {**tensors, **{name: torch.zeros((), dtype=torch.long) for name in counters}}
