"""The network that ranks generated videos by how well they fit their texts.

NUWA ranks its images by CLIP (arXiv 2111.12417, section 4: the best of 60). CLIP (arXiv 2103.00020) does not
see motion; this small network has the same form, two encoders into one space, and reads whole videos.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from flax import linen as nn
from flax import struct
from jaxtyping import Array, Bool, Float, UInt8

from muse_jax.media.image import to_unit_range
from muse_jax.nn.conditioning import check_text
from muse_jax.nn.convolutions import NormSwish, conv
from muse_jax.nn.linear import Dense
from muse_jax.nn.norms import LayerNorm, rms_normalize
from muse_jax.sampling.params import SamplingParams

SCALE = 1 / 0.07
"""Initial factor of the cosine similarities, as in CLIP (section 2.5)."""
MAX_SCALE = 100.0
_PATCH = 4  # pixels that the first layer joins along each axis


@struct.dataclass
class RankerSampling(SamplingParams):
    """A ranker has no sampling parameters: `NuwaSampling.num_candidates` is the number it chooses from."""


class SpaceTimeBlock(nn.Module):
    """Residual block: a 3x3 convolution of each frame, then a convolution over three frames."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "b s h w c"]) -> Float[Array, "b s h w c"]:
        count, width = len(x), x.shape[-1]
        frames = rearrange(x, "b s h w c -> (b s) h w c")
        frames = conv(width, 3, self.dtype)(NormSwish(self.dtype)(frames))
        frames = NormSwish(self.dtype)(frames)
        h = rearrange(frames, "(b s) h w c -> b s h w c", b=count)
        h = jnp.pad(h, ((0, 0), (1, 1), (0, 0), (0, 0), (0, 0)))
        h = jnp.concatenate([h[:, :-2], h[:, 1:-1], h[:, 2:]], axis=-1)
        return x + Dense((width,), (None, "embed"), dtype=self.dtype)(h)


class VideoRanker(nn.Module):
    """Embeddings of videos and of texts; their product is the similarity.

    Fields:
      widths: of the convolutions, at a quarter of the frames' height and width, at an eighth, and so on.
      depth: blocks at each of these sizes.
      text_dim: width of the text encoder's states.
      embed_dim: of the embeddings.
      dtype: of the computation; embeddings are float32.
    """

    widths: tuple[int, ...] = (64, 128, 256)
    depth: int = 2
    text_dim: int = 384
    embed_dim: int = 256
    dtype: Any = jnp.float32

    def example_inputs(self) -> tuple[Array, ...]:
        """Inputs of the smallest size, to initialize parameters with."""
        side = _PATCH * 2 ** len(self.widths)
        clips = jnp.zeros((1, 1, side, side, 3), jnp.uint8)
        return clips, jnp.zeros((1, 2, self.text_dim)), jnp.ones((1, 2), bool)

    def setup(self):
        dtype = self.dtype
        self.inputs = Dense((self.widths[0],), (None, "embed"), dtype=dtype)
        self.down = [Dense((width,), (None, "embed"), dtype=dtype) for width in self.widths[1:]]
        self.blocks = [[SpaceTimeBlock(dtype) for _ in range(self.depth)] for _ in self.widths]
        self.video_norm = LayerNorm(dtype=dtype)
        self.video_head = Dense((self.embed_dim,), (None, "embed"), dtype=dtype)
        self.text_inputs = Dense((2 * self.embed_dim,), (None, "embed"), dtype=dtype)
        self.text_head = Dense((self.embed_dim,), (None, "embed"), dtype=dtype)
        self.log_scale = self.param("log_scale", nn.initializers.constant(jnp.log(SCALE)), ())

    def __call__(
        self,
        clips: UInt8[Array, "videos frames height width 3"],
        text: Float[Array, "batch text text_dim"],
        text_mask: Bool[Array, "batch text"],
    ) -> tuple[Float[Array, "videos embed_dim"], Float[Array, "batch embed_dim"]]:
        """Embeddings of videos, scaled by the temperature, and of texts; see `videos` and `texts`."""
        scale = jnp.minimum(jnp.exp(self.log_scale), MAX_SCALE)
        return scale * self.videos(clips), self.texts(text, text_mask)

    def videos(self, clips: UInt8[Array, "batch frames height width 3"]) -> Float[Array, "batch embed_dim"]:
        """Embeddings of length 1 of videos of any number of frames; an image is a video of one frame.

        Raises:
          ValueError: the height or width is not divisible.
        """
        multiple = _PATCH * 2 ** (len(self.widths) - 1)
        if any(size % multiple for size in clips.shape[2:4]):
            raise ValueError(
                f"clips have frames of {clips.shape[2]}x{clips.shape[3]} pixels, but this network reads "
                f"multiples of {multiple}: resize them."
            )
        x = self.inputs(_patches(to_unit_range(clips).astype(self.dtype), _PATCH))
        for level, blocks in enumerate(self.blocks):
            if level:
                x = self.down[level - 1](_patches(x, 2))
            for block in blocks:
                x = block(x)
        pooled = jnp.concatenate([jnp.mean(x, (1, 2, 3)), jnp.max(x, (1, 2, 3))], axis=-1)
        return _normalize(self.video_head(self.video_norm(pooled)))

    def texts(
        self, text: Float[Array, "batch text text_dim"], text_mask: Bool[Array, "batch text"]
    ) -> Float[Array, "batch embed_dim"]:
        """Embeddings of length 1 of texts, from the states of the text encoder."""
        check_text(text, text_mask, self.text_dim)
        x = nn.gelu(self.text_inputs(rms_normalize(text)))
        total = jnp.sum(x * text_mask[..., None], axis=1)
        return _normalize(self.text_head(total / jnp.maximum(jnp.sum(text_mask, axis=1), 1)[:, None]))


def best_clips(
    ranker: VideoRanker,
    params: Mapping[str, Any],
    clips: UInt8[Array, "batch*candidates frames height width 3"],
    text: tuple[Float[Array, "batch text text_dim"], Bool[Array, "batch text"]],
) -> UInt8[Array, "batch frames height width 3"]:
    """Of the candidates of each text, which follow one another, the one most similar to it. Traced."""
    variables = {"params": params}
    videos: Any = ranker.apply(variables, clips, method="videos")
    texts: Any = ranker.apply(variables, *text, method="texts")
    candidates = rearrange(videos, "(b c) d -> b c d", b=len(texts))
    best = jnp.argmax(jnp.einsum("bcd,bd->bc", candidates, texts), axis=1)
    return rearrange(clips, "(b c) ... -> b c ...", b=len(texts))[jnp.arange(len(texts)), best]


def repeat_rows(tree: Any, count: int) -> Any:
    """Each row of the arrays `count` times, one after the other."""
    return jax.tree.map(lambda x: repeat(x, "b ... -> (b c) ...", c=count), tree)


def _patches(x: Float[Array, "b s h w c"], size: int) -> Array:
    return rearrange(x, "b s (h i) (w j) c -> b s h w (i j c)", i=size, j=size)


def _normalize(x: Array) -> Float[Array, "batch dim"]:
    x = x.astype(jnp.float32)
    return x / jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), 1e-6)
