"""LPIPS on VGG-16 or AlexNet: perceptual distance with learned weights, as a loss and as a metric."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from muse_jax.interop.lpips import cut_lpips, load_lpips_vgg
from muse_jax.nn.alexnet import AlexNet
from muse_jax.nn.vgg import STAGES, VGG16


def lpips(
    params: Any,
    images: Float[Array, "batch height width 3"],
    targets: Float[Array, "batch height width 3"],
    dtype: Any = jnp.float32,
) -> Float[Array, " batch"]:
    """LPIPS distance of each image to its target (Zhang et al., CVPR 2018, eq. 1), float32.

    Args:
      params: from `load_lpips` or `interop.lpips.load_lpips_alex`. With fewer than five stages of VGG-16 the
        result is a partial sum, which compares outlines and textures rather than content, and is no longer
        LPIPS.
      images: in [-1, 1].
      targets: in [-1, 1], of the same shape.
      dtype: of VGG-16's convolutions.
    """
    stages = len(params["heads"])
    name = "alex" if "alex" in params else "vgg"
    network: Any = AlexNet() if name == "alex" else VGG16(stages, dtype)
    maps, target_maps = (network.apply({"params": params[name]}, x) for x in (images, targets))
    distances = []
    for stage, (a, b) in enumerate(zip(maps, target_maps, strict=True)):
        difference = (_unit(a) - _unit(b)) ** 2
        distances.append(jnp.mean(jnp.sum(difference * params["heads"][str(stage)], -1), (1, 2)))
    return jnp.sum(jnp.stack(distances), axis=0)


def _unit(x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
    x = x.astype(jnp.float32)
    # The epsilon inside the root keeps the gradient finite where all channels are zero.
    return x / (jnp.sqrt(jnp.sum(x**2, axis=-1, keepdims=True) + 1e-20) + 1e-10)


def load_lpips(stages: int = len(STAGES), file: str = "") -> Any:
    """Loads the weights for `lpips` over the first `stages` stages; `file` as in `load_lpips_vgg`."""
    return cut_lpips(load_lpips_vgg(file), stages)


def lpips_shapes(stages: int = len(STAGES)) -> Any:
    """Shapes of the weights that `load_lpips` gives, without reading them."""
    network = VGG16(stages)
    params = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    heads = {
        str(stage): jax.ShapeDtypeStruct((width,), jnp.float32)
        for stage, (_, width) in enumerate(STAGES[:stages])
    }
    return {"vgg": params, "heads": heads}
