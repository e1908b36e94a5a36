"""Checks that the stages of a Muse pipeline go together."""

from collections.abc import Mapping
from typing import Any

from muse_jax.checkpointing.source import Source
from muse_jax.systems.base import LoadedStage
from muse_jax.text import TextEncoder


def check_trained_together(sources: Mapping[str, Source]) -> None:
    """Refuses a super-resolution stage that was trained on the tokens of another tokenizer than the base's.

    Raises:
      ValueError: one sentence.
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
    """Refuses networks that do not fit the text encoder, their tokenizers or each other.

    Raises:
      ValueError: one sentence.
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
            f"The superres network reads {_codes(*read[:2])} on a grid {read[2]}, but the base network draws "
            f"{_codes(*made[:2])} on {made[2]}: take a pair that was trained together."
        )
    if any(large % small for large, small in zip(superres.image_size, base.image_size, strict=True)):
        raise ValueError(
            f"The superres stage draws {superres.image_size} pixels, no multiple of the base stage's "
            f"{base.image_size}: take the pair that was trained together."
        )


def _check_stage(name: str, stage: LoadedStage, encoder: TextEncoder) -> None:
    network, tokenizer = stage.network, stage.tokenizer
    if network.text_dim != encoder.dim:
        raise ValueError(
            f"The {name} network reads text states of width {network.text_dim}, but the text encoder "
            f"{encoder.name!r} gives {encoder.dim}: take the one it was trained with."
        )
    drawn: tuple[Any, Any] = (network.groups, network.vocab_size)
    decoded: tuple[Any, Any] = (tokenizer.groups, tokenizer.codebook_size)
    if drawn != decoded:
        raise ValueError(
            f"The {name} network draws {_codes(*drawn)}, but its tokenizer has {_codes(*decoded)}: "
            "take the tokenizer it was trained with."
        )


def _codes(groups: int, vocab_size: int) -> str:
    return f"{vocab_size} codes" if groups == 1 else f"{groups} groups of {vocab_size} codes"
