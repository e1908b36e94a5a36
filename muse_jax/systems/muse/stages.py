"""Checks that the stages of a Muse pipeline are compatible."""

from collections.abc import Mapping
from typing import Any

from muse_jax.checkpointing.source import Source
from muse_jax.systems.base import LoadedStage
from muse_jax.text import TextEncoder


def check_trained_together(sources: Mapping[str, Source]) -> None:
    """Checks that the super-resolution stage was trained on tokens of the base stage's tokenizer.

    Raises:
      ValueError: it was trained with another tokenizer.
    """
    base, superres = sources.get("base"), sources.get("superres")
    if base is None or superres is None or base is superres or base.abstract:
        return
    if superres.tokenizer().encoder_hash != base.tokenizer().encoder_hash:
        raise ValueError(
            f"{superres.name} was trained with another tokenizer than {base.name}: give runs that were "
            "trained together."
        )


def check_stages(encoder: TextEncoder, base: LoadedStage, superres: LoadedStage | None) -> None:
    """Checks that the networks fit the text encoder, their tokenizers and each other.

    Raises:
      ValueError: they do not; the message names the first mismatch.
    """
    for name, stage in (("base", base), ("superres", superres)):
        if stage is not None:
            _check_stage(name, stage, encoder)
    if superres is None:
        return
    low, small = superres.network, base.network
    read = (low.low_groups, low.low_vocab_size, tuple(low.low_grid))
    made = (small.groups, small.vocab_size, tuple(small.grid))
    if read != made:
        raise ValueError(
            f"The superres network reads {_codes(*read[:2])} on a grid {read[2]}, but the base network has "
            f"{_codes(*made[:2])} on {made[2]}: use a pair that was trained together."
        )
    if any(large % small for large, small in zip(superres.image_size, base.image_size, strict=True)):
        raise ValueError(
            f"The superres stage generates {superres.image_size} pixels, which is not a multiple of the base "
            f"stage's {base.image_size}: use a pair that was trained together."
        )


def _check_stage(name: str, stage: LoadedStage, encoder: TextEncoder) -> None:
    network, tokenizer = stage.network, stage.tokenizer
    if network.text_dim != encoder.dim:
        raise ValueError(
            f"The {name} network reads text states of width {network.text_dim}, but the text encoder "
            f"{encoder.name!r} gives {encoder.dim}: use the encoder that it was trained with."
        )
    generated: tuple[Any, Any] = (network.groups, network.vocab_size)
    decoded: tuple[Any, Any] = (tokenizer.groups, tokenizer.codebook_size)
    if generated != decoded:
        raise ValueError(
            f"The {name} network generates {_codes(*generated)}, but its tokenizer has {_codes(*decoded)}: "
            "use the tokenizer that it was trained with."
        )


def _codes(groups: int, vocab_size: int) -> str:
    return f"{vocab_size} codes" if groups == 1 else f"{groups} groups of {vocab_size} codes"
