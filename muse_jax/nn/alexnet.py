"""The convolutions of AlexNet (Krizhevsky et al. 2012), for the perceptual distance LPIPS."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from muse_jax.nn.vgg import normalize_images

# Width, kernel, stride and padding of each convolution; the third and later follow without a pool.
_LAYERS = ((64, 11, 4, 2), (192, 5, 1, 2), (384, 3, 1, 1), (256, 3, 1, 1), (256, 3, 1, 1))


class AlexNet(nn.Module):
    """Images in [-1, 1], of 31 px or more, to the maps of all five convolutions, after their ReLU."""

    @nn.compact
    def __call__(self, images: Float[Array, "batch height width 3"]) -> list[Float[Array, "batch h w c"]]:
        x, maps = normalize_images(images).astype(jnp.float32), []
        for index, (width, kernel, stride, padding) in enumerate(_LAYERS):
            if index in (1, 2):
                x = nn.max_pool(x, (3, 3), (2, 2))
            sides, around = (kernel, kernel), [(padding, padding)] * 2
            x = nn.relu(nn.Conv(width, sides, stride, around, name=f"conv_{index}")(x))
            maps.append(x)
        return maps
