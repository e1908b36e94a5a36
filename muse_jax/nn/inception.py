"""Inception-v3 as the FID uses it (Szegedy et al., 2016; Heusel et al., 2017).

This is TensorFlow's network of 2015-12-05 with 1008 classes. It differs from the published Inception-v3 in
that average pools do not count padding, and in that the last block pools by maximum. Batch norm is folded
into the convolutions, as `muse_jax.interop.inception` reads them.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

SIZE = 299
FEATURES = 2048
CLASSES = 1008
Map = Float[Array, "b h w c"]


class Convolution(nn.Module):
    """Convolution and ReLU; `padding` in pixels."""

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)

    @nn.compact
    def __call__(self, x: Map) -> Map:
        padding = [(pixels, pixels) for pixels in self.padding]
        return nn.relu(nn.Conv(self.features, self.kernel, self.stride, padding, name="conv")(x))


def _average(x: Map) -> Map:
    return nn.avg_pool(x, (3, 3), padding=[(1, 1), (1, 1)], count_include_pad=False)


def _reduce(x: Map) -> Map:
    return nn.max_pool(x, (3, 3), (2, 2))


class BlockA(nn.Module):
    """Branches of 1x1, 5x5 and two 3x3 convolutions and a pool, at 35x35."""

    pool_features: int

    @nn.compact
    def __call__(self, x: Map) -> Map:
        five = Convolution(48, name="branch5x5_1")(x)
        five = Convolution(64, (5, 5), padding=(2, 2), name="branch5x5_2")(five)
        three = Convolution(64, name="branch3x3dbl_1")(x)
        three = Convolution(96, (3, 3), padding=(1, 1), name="branch3x3dbl_2")(three)
        three = Convolution(96, (3, 3), padding=(1, 1), name="branch3x3dbl_3")(three)
        pool = Convolution(self.pool_features, name="branch_pool")(_average(x))
        return jnp.concatenate([Convolution(64, name="branch1x1")(x), five, three, pool], -1)


class BlockB(nn.Module):
    """35x35 to 17x17."""

    @nn.compact
    def __call__(self, x: Map) -> Map:
        double = Convolution(64, name="branch3x3dbl_1")(x)
        double = Convolution(96, (3, 3), padding=(1, 1), name="branch3x3dbl_2")(double)
        double = Convolution(96, (3, 3), 2, name="branch3x3dbl_3")(double)
        return jnp.concatenate([Convolution(384, (3, 3), 2, name="branch3x3")(x), double, _reduce(x)], -1)


class BlockC(nn.Module):
    """Branches of factorized 7x7 convolutions, at 17x17; `width` features inside."""

    width: int

    @nn.compact
    def __call__(self, x: Map) -> Map:
        row, column = ((1, 7), (0, 3)), ((7, 1), (3, 0))
        y = x
        for index, (width, (kernel, padding)) in enumerate(
            [(self.width, ((1, 1), (0, 0))), (self.width, row), (192, column)], 1
        ):
            y = Convolution(width, kernel, padding=padding, name=f"branch7x7_{index}")(y)
        z = x
        for index, (kernel, padding) in enumerate([((1, 1), (0, 0)), column, row, column, row], 1):
            width = 192 if index == 5 else self.width
            z = Convolution(width, kernel, padding=padding, name=f"branch7x7dbl_{index}")(z)
        pool = Convolution(192, name="branch_pool")(_average(x))
        return jnp.concatenate([Convolution(192, name="branch1x1")(x), y, z, pool], -1)


class BlockD(nn.Module):
    """17x17 to 8x8."""

    @nn.compact
    def __call__(self, x: Map) -> Map:
        three = Convolution(320, (3, 3), 2, name="branch3x3_2")(Convolution(192, name="branch3x3_1")(x))
        seven = Convolution(192, name="branch7x7x3_1")(x)
        seven = Convolution(192, (1, 7), padding=(0, 3), name="branch7x7x3_2")(seven)
        seven = Convolution(192, (7, 1), padding=(3, 0), name="branch7x7x3_3")(seven)
        seven = Convolution(192, (3, 3), 2, name="branch7x7x3_4")(seven)
        return jnp.concatenate([three, seven, _reduce(x)], -1)


class BlockE(nn.Module):
    """Branches that end in 1x3 and 3x1 convolutions side by side, at 8x8."""

    max_pool: bool

    @nn.compact
    def __call__(self, x: Map) -> Map:
        three = self._fork("branch3x3_2", Convolution(384, name="branch3x3_1")(x))
        double = Convolution(448, name="branch3x3dbl_1")(x)
        double = Convolution(384, (3, 3), padding=(1, 1), name="branch3x3dbl_2")(double)
        double = self._fork("branch3x3dbl_3", double)
        pool = nn.max_pool(x, (3, 3), padding=[(1, 1), (1, 1)]) if self.max_pool else _average(x)
        pool = Convolution(192, name="branch_pool")(pool)
        return jnp.concatenate([Convolution(320, name="branch1x1")(x), three, double, pool], -1)

    def _fork(self, name: str, x: Map) -> Map:
        row = Convolution(384, (1, 3), padding=(0, 1), name=f"{name}a")(x)
        column = Convolution(384, (3, 1), padding=(1, 0), name=f"{name}b")(x)
        return jnp.concatenate([row, column], -1)


class InceptionV3(nn.Module):
    """Features of the last pool, "pool3", and logits without their bias.

    The inception score is defined on these unbiased logits.
    """

    @nn.compact
    def __call__(
        self, images: Float[Array, "b 299 299 3"]
    ) -> tuple[Float[Array, "b 2048"], Float[Array, "b 1008"]]:
        """Embeds images in [-1, 1], of 75 px or more."""
        x = Convolution(32, (3, 3), 2, name="Conv2d_1a_3x3")(images)
        x = Convolution(32, (3, 3), name="Conv2d_2a_3x3")(x)
        x = _reduce(Convolution(64, (3, 3), padding=(1, 1), name="Conv2d_2b_3x3")(x))
        x = Convolution(80, name="Conv2d_3b_1x1")(x)
        x = _reduce(Convolution(192, (3, 3), name="Conv2d_4a_3x3")(x))
        for letter, pool_features in zip("bcd", (32, 64, 64), strict=True):
            x = BlockA(pool_features, name=f"Mixed_5{letter}")(x)
        x = BlockB(name="Mixed_6a")(x)
        for letter, width in zip("bcde", (128, 160, 160, 192), strict=True):
            x = BlockC(width, name=f"Mixed_6{letter}")(x)
        x = BlockD(name="Mixed_7a")(x)
        x = BlockE(max_pool=False, name="Mixed_7b")(x)
        x = BlockE(max_pool=True, name="Mixed_7c")(x)
        features = jnp.mean(x, axis=(1, 2))
        kernel = self.param("logits", nn.initializers.lecun_normal(), (FEATURES, CLASSES))
        return features, jnp.matmul(features, kernel, precision=jax.lax.Precision.HIGHEST)
