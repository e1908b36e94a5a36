"""Sampling from CogLM: images from texts, regions of images, captions, and the perplexity of captions.

Pure functions of a `BoundCogLM` and arrays, to be called under `jax.jit` with a static network and
vocabulary. One program serves prompts of every length.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from muse_jax.sampling.autoregressive import NextLogitsFn, Sampling, autoregressive_decode
from muse_jax.sampling.progress import Progress, StepCallback
from muse_jax.systems.cogview2.coglm import CogLMBase
from muse_jax.systems.cogview2.sequences import Sequence, Vocabulary, image_to_text, text_to_image


class BoundCogLM(NamedTuple):
    """Network of CogView2 with its parameters and vocabulary."""

    network: Any
    params: Any
    vocabulary: Vocabulary

    def apply(self, *arguments: Any, method: str) -> Any:
        """Calls a method of the network."""
        return self.network.apply({"params": self.params}, *arguments, method=method)


def sample_image_tokens(
    model: BoundCogLM,
    text: Int[Array, "batch text"],
    text_mask: Bool[Array, "batch text"],
    key: Array,
    *,
    sampling: Sampling,
    text_weight: Float[Array, ""] | float,
    image: Int[Array, "batch tokens"] | None = None,
    region: Bool[Array, "batch tokens"] | None = None,
    on_step: Progress | StepCallback | None = None,
) -> Int[Array, "batch tokens"]:
    """Samples image tokens for captions, or a `region` of `image` (CogView2, section 3.1 and 3.4).

    The sampled tokens come last, in raster order, and attend to all others; the token before each run of them
    is its start.

    Args:
      model: a `CogLM` with its parameters and vocabulary.
      text, text_mask: pieces from `TextPieces`, one less than the network's text slots.
      key: PRNG key.
      sampling: how a token is sampled from its logits.
      text_weight: added to the attention logits of the text (`attn_plus`); the published programs use 1.4 for
        whole images and for regions.
      image: codes, of which only those outside `region` matter; None: a new image.
      region: True for tokens to sample; None if and only if `image` is.
      on_step: see `masked_decode`.

    Raises:
      ValueError: the texts, the image or the region do not have the network's size.
    """
    if (image is None) != (region is None):
        raise ValueError("Give both an image and the region to sample, or neither for a new image.")
    if image is None or region is None:
        image = jnp.zeros((len(text), model.network.image_tokens), jnp.int32)
        region = jnp.ones(image.shape, bool)
    check_inputs(model, text, text_mask, image=image, region=region)
    sequence = text_to_image(model.vocabulary, text, text_mask, image, region)
    # Ranks of 2 and more belong to the region, which the loop reads (see text_to_image).
    known = jnp.where(sequence.ranks < 2, sequence.ranks, -1)
    first = model.network.text_length
    weight = jnp.where(jnp.arange(model.network.length) < first, text_weight, 0.0)
    cache = model.apply(
        sequence.tokens,
        known,
        jnp.broadcast_to(weight, known.shape),
        method="read",
    )
    next_logits = _next_logits(model, sequence, first, 0, model.vocabulary.image_codes)
    tokens = autoregressive_decode(
        next_logits,
        cache,
        sequence.tokens[:, first:],
        jnp.pad(region, ((0, 0), (1, 0))),
        key,
        sampling=sampling,
        on_step=on_step,
    )
    return tokens[:, 1:]


def sample_caption(
    model: BoundCogLM,
    image: Int[Array, "batch tokens"],
    key: Array,
    *,
    sampling: Sampling,
    on_step: Progress | StepCallback | None = None,
) -> tuple[Int[Array, "batch text"], Bool[Array, "batch text"]]:
    """Samples captions of images: pieces and their mask; a caption ends before the first `pad`."""
    shape = (len(image), model.network.text_length - 1)
    text, every = jnp.zeros(shape, jnp.int32), jnp.ones(shape, bool)
    check_inputs(model, text, every, image=image)
    sequence = image_to_text(model.vocabulary, text, every, image)
    known = jnp.where(sequence.loss, -1, sequence.ranks)
    cache = model.apply(sequence.tokens, known, method="read")
    codes = model.vocabulary.image_codes
    # The rows of the text pieces, and of pad, which follows the last one.
    next_logits = _next_logits(model, sequence, 0, codes, model.vocabulary.text_pieces + 1)
    text_tokens = sequence.tokens[:, : model.network.text_length] - codes
    pieces = autoregressive_decode(
        next_logits,
        cache,
        text_tokens,
        jnp.pad(every, ((0, 0), (1, 0))),
        key,
        sampling=sampling,
        end_id=model.vocabulary.pad - codes,
        on_step=on_step,
    )[:, 1:]
    there = pieces != model.vocabulary.pad - codes
    return jnp.where(there, pieces, 0), there


def caption_cross_entropy(
    model: BoundCogLM,
    text: Int[Array, "batch text"],
    text_mask: Bool[Array, "batch text"],
    image: Int[Array, "batch tokens"],
) -> Float[Array, " batch"]:
    """Mean `-log p` in nats of a caption's pieces given the image; its `exp` is the perplexity.

    CogView2 ranks candidates by it (section 3.4): lower values mean that the image fits its caption better.
    The end of the caption, which is trained for sampling captions, does not count; an empty caption has 0.
    """
    check_inputs(model, text, text_mask, image=image)
    sequence = image_to_text(model.vocabulary, text, text_mask, image)
    hidden = model.apply(sequence.tokens, sequence.ranks, method="hidden")
    part = slice(model.network.text_pieces)  # the positions before each piece
    losses = model.apply(hidden[:, part], sequence.labels[:, part], method="cross_entropy")
    return jnp.sum(losses * text_mask, axis=1) / jnp.maximum(1, jnp.sum(text_mask, axis=1))


def _next_logits(
    model: BoundCogLM, sequence: Sequence, first_slot: int, first_row: int, rows: int
) -> NextLogitsFn:
    """Function that reads the token at slot `first_slot + place` and returns logits of the next one.

    The logits are those of `rows` tokens of the vocabulary starting at `first_row`; the loop's tokens count
    from `first_row`.
    """
    sample = jnp.arange(len(sequence.tokens))

    def next_logits(token: Array, place: Array, cache: Any) -> tuple[Array, Any]:
        slot = first_slot + place
        rank = sequence.ranks[sample, slot]
        hidden, cache = model.apply(token + first_row, slot, rank, cache, method="extend")
        logits = model.apply(hidden[:, None], first_row, rows, method="logits")
        return logits[:, 0], cache

    return next_logits


def check_inputs(model: BoundCogLM, text: Array, text_mask: Array, **image: Array) -> None:
    """Raises ValueError if a text, or an image given by name, does not have the network's size."""
    network = model.network
    check_vocabulary(network, model.vocabulary)
    wanted = (len(text), network.text_pieces)
    if text.shape != wanted or text_mask.shape != wanted:
        raise ValueError(
            f"text and text_mask have shapes {text.shape} and {text_mask.shape}, but the network reads "
            f"(batch, {network.text_pieces}) pieces; give TextPieces this length."
        )
    for name, value in image.items():
        if value.shape != (len(text), network.image_tokens):
            raise ValueError(
                f"{name} has shape {value.shape}, but {len(text)} texts and the grid {network.grid[0]}x"
                f"{network.grid[1]} need {(len(text), network.image_tokens)}, row by row."
            )


def check_vocabulary(network: CogLMBase, vocabulary: Vocabulary) -> None:
    """Raises ValueError if the network's table does not match the vocabulary."""
    if vocabulary.size != network.vocab_size or vocabulary.text_pieces < 1:
        raise ValueError(
            f"vocab_size is {network.vocab_size}, but the vocabulary has {vocabulary.size} tokens, of which "
            f"{vocabulary.image_codes} are image codes; the two must agree and leave room for text pieces."
        )
