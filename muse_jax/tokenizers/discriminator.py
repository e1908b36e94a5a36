"""StyleGAN2 discriminator (Karras et al. 2020, appendix B), as in MaskGIT's VQGAN, and GAN losses."""

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from muse_jax.nn.convolutions import conv


def blur_downsample(x: Float[Array, "b h w c"]) -> Float[Array, "b h/2 w/2 c"]:
    """Blurs with the filter (1, 3, 3, 1)/8 along both axes and keeps every second position.

    Written as shifted sums, because a depthwise convolution costs 25 times as much on CPU.
    """
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="reflect")
    x = (x[:, :-3:2] + 3 * x[:, 1:-2:2] + 3 * x[:, 2:-1:2] + x[:, 3::2]) / 8
    return (x[:, :, :-3:2] + 3 * x[:, :, 1:-2:2] + 3 * x[:, :, 2:-1:2] + x[:, :, 3::2]) / 8


def minibatch_stddev(x: Float[Array, "b h w c"], group: int = 4) -> Float[Array, "b h w c+1"]:
    """Appends the minibatch standard deviation as a channel (Karras et al. 2018, section 3).

    It is the mean over features of the standard deviation within groups of `group` samples; a batch that is
    no multiple of `group` has groups of one.
    """
    batch, height, width, _ = x.shape
    group = group if batch % group == 0 else 1
    grouped = x.reshape(group, batch // group, -1).astype(jnp.float32)
    deviation = jnp.sqrt(jnp.var(grouped, axis=0) + 1e-8).mean(-1)
    channel = jnp.tile(deviation, group)[:, None, None, None]
    return jnp.concatenate([x, jnp.broadcast_to(channel, (batch, height, width, 1)).astype(x.dtype)], -1)


class Discriminator(nn.Module):
    """Discriminator: one realness logit for each image in [0, 1].

    It differs from MaskGIT's in three ways: a 1x1 stem (theirs is 3x3), reflected borders in the blur (theirs
    are zero) and the minibatch standard deviation (theirs has none).

    Fields:
      filters: channels of each level; every level but the last halves the resolution.
      patch: factor of the space-to-depth before the first convolution, as in `VQGAN`.
      dtype: of the computation, except the last layer, which is float32.
    """

    filters: Sequence[int] = (64, 128, 256, 512, 512, 512)
    patch: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: Float[Array, "b height width 3"]) -> Float[Array, " b"]:
        x = rearrange(images, "b (h p) (w q) c -> b h w (p q c)", p=self.patch, q=self.patch)
        x = nn.leaky_relu(conv(self.filters[0], 1, self.dtype)(x), 0.2)
        for width, next_width in itertools.pairwise(self.filters):
            h = nn.leaky_relu(conv(width, 3, self.dtype)(x), 0.2)
            h = nn.leaky_relu(conv(next_width, 3, self.dtype)(blur_downsample(h)), 0.2)
            x = (h + conv(next_width, 1, self.dtype)(blur_downsample(x))) / jnp.sqrt(2.0)
        x = nn.leaky_relu(conv(self.filters[-1], 3, self.dtype)(minibatch_stddev(x)), 0.2)
        x = x.reshape(x.shape[0], -1)
        init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("conv_in", "conv_out"))
        x = nn.leaky_relu(nn.Dense(self.filters[-1], dtype=self.dtype, kernel_init=init)(x), 0.2)
        return nn.Dense(1, dtype=jnp.float32)(x)[:, 0]


def generator_loss(fake_logits: Float[Array, " b"]) -> Float[Array, ""]:
    """Non-saturating generator loss, the mean of softplus(-D(fake))."""
    return jnp.mean(jax.nn.softplus(-fake_logits))


def discriminator_loss(real_logits: Float[Array, " b"], fake_logits: Float[Array, " b"]) -> Float[Array, ""]:
    """Logistic discriminator loss, the mean of softplus(-D(real)) + softplus(D(fake))."""
    return jnp.mean(jax.nn.softplus(-real_logits) + jax.nn.softplus(fake_logits))


def r1_penalty(apply, images: Float[Array, "b height width 3"]) -> Float[Array, ""]:
    """R1 penalty: mean squared gradient norm of `apply` at real images (Mescheder et al. 2018), unhalved."""
    gradient = jax.grad(lambda x: jnp.sum(apply(x)))(images)
    return jnp.mean(jnp.sum(gradient**2, axis=(1, 2, 3)))


def lazy(due: Array, loss: Callable[[Any], Array], params: Any) -> Array:
    """`loss(params)` where `due`, else 0: lazy regularization (Karras et al. 2020, section 3.1).

    The gradient is computed inside the condition. Were the condition differentiated, the maps that a loss
    keeps for its gradient would be outputs of both branches: every step would write zeros of their size, and
    XLA for GPUs would give each device those of the whole batch.

    Args:
      due: whether the loss is computed, a boolean scalar.
      loss: a scalar function of `params` alone; it may close over what is not differentiated.
      params: a pytree of float arrays.
    """

    def none(params):
        return jnp.zeros(()), jax.tree.map(jnp.zeros_like, params)

    stop = jax.lax.stop_gradient
    value, slopes = jax.lax.cond(due, jax.value_and_grad(loss), none, stop(params))
    # Zero, with the gradient of the loss.
    rises = jax.tree.map(lambda slope, leaf: jnp.sum(slope * (leaf - stop(leaf))), slopes, params)
    return value + sum(jax.tree.leaves(rises))
