"""Sampling for CogView2's super-resolution, direct and iterative (LoPAR): pure functions to be jitted."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from muse_jax.sampling.autoregressive import Sampling
from muse_jax.sampling.lopar import lopar_decode
from muse_jax.sampling.progress import Progress, StepCallback
from muse_jax.systems.cogview2.sampling import BoundCogLM, check_inputs
from muse_jax.systems.cogview2.sequences import Sequence, Vocabulary, text_to_image


def coarse_sequence(
    vocabulary: Vocabulary,
    text: Int[Array, "batch text"],
    text_mask: Bool[Array, "batch text"],
    image: Int[Array, "batch tokens"],
) -> Sequence:
    """Input sequence of `DirectSuperRes`: the text attends to itself, and the whole image is given."""
    return text_to_image(vocabulary, text, text_mask, image, jnp.zeros(image.shape, bool))


def sample_fine_tokens(
    model: BoundCogLM,
    text: Int[Array, "batch text"],
    text_mask: Bool[Array, "batch text"],
    image: Int[Array, "batch tokens"],
    key: Array,
    *,
    sampling: Sampling,
) -> Int[Array, "batch fine"]:
    """Samples the tokens of the fine grid in one pass, independently (CogView2, section 3.2).

    The published program samples by clusters: one of the 100 most probable of 500, with temperature 0.89
    inside.

    Raises:
      ValueError: the text or the image does not have the network's size.
    """
    check_inputs(model, text, text_mask, image=image)
    sequence = coarse_sequence(model.vocabulary, text, text_mask, image)
    hidden = model.apply(sequence.tokens, sequence.ranks, method="hidden")
    return sampling(key, model.apply(hidden, 0, model.vocabulary.image_codes, method="logits"))


def refine_tokens(
    model: BoundCogLM,
    text: Int[Array, "batch text"],
    text_mask: Bool[Array, "batch text"],
    fine: Int[Array, "batch tokens"],
    key: Array,
    *,
    steps: np.ndarray,
    top_k: tuple[int, ...] | None = None,
    temperature: Float[Array, ""] | float,
    editable: Bool[Array, "batch tokens"] | None = None,
    on_step: Progress | StepCallback | None = None,
) -> Int[Array, "batch tokens"]:
    """Resamples fine tokens by LoPAR (CogView2, section 3.3), see `lopar_decode`.

    Raises:
      ValueError: as in `lopar_decode`, or the text or the image does not have the network's size.
    """
    check_inputs(model, text, text_mask, fine=fine)
    pieces = model.vocabulary.words(text, text_mask)

    def logits_fn(tokens: Array) -> Array:
        hidden = model.apply(tokens, pieces, text_mask, method="hidden")
        return model.apply(hidden, 0, model.vocabulary.image_codes, method="logits")

    return lopar_decode(
        logits_fn,
        fine,
        key,
        steps=steps,
        mask_id=model.vocabulary.start_of_image,
        top_k=top_k,
        temperature=temperature,
        editable=editable,
        on_step=on_step,
    )
