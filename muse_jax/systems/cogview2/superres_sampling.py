"""Sampling for CogView2's super-resolution: direct, then iterative (LoPAR).

Pure functions like those of `muse_jax.systems.cogview2.sampling`.
"""

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
    """The input sequence of `DirectSuperRes`: the text attends to itself, and the whole image is given."""
    return text_to_image(vocabulary, text, text_mask, image, jnp.zeros(image.shape, bool))


def draw_fine(
    model: BoundCogLM,
    text: Int[Array, "batch text"],
    text_mask: Bool[Array, "batch text"],
    image: Int[Array, "batch tokens"],
    key: Array,
    *,
    sampling: Sampling,
) -> Int[Array, "batch fine"]:
    """Samples the tokens of the fine grid in one pass, independently (CogView2, section 3.2).

    The published `sampling` is by clusters: the 100 most probable of 500, temperature 0.89 inside.

    Raises:
      ValueError: text or image of another size than the network's.
    """
    check_inputs(model, text, text_mask, image=image)
    sequence = coarse_sequence(model.vocabulary, text, text_mask, image)
    hidden = model.apply(sequence.tokens, sequence.ranks, method="hidden")
    return sampling(key, model.apply(hidden, 0, model.vocabulary.image_codes, method="logits"))


def redraw_fine(
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
      ValueError: as `lopar_decode`, and for text or image of another size than the network's.
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
