"""Checks of the arguments of NUWA's pipeline, before any device work."""

from typing import Any

import numpy as np

from muse_jax.sampling.params import check_steps
from muse_jax.systems.base import LoadedStage
from muse_jax.systems.nuwa.sampling import NuwaSampling
from muse_jax.text import TextEncoder


def check_stages(encoder: TextEncoder, base: LoadedStage, ranker: LoadedStage | None) -> None:
    """Refuses networks that do not fit the text encoder or the tokenizer."""
    network, tokenizer = base.network, base.tokenizer
    for name, stage in (("network", base), ("ranker", ranker)):
        if stage is not None and stage.network.text_dim != encoder.dim:
            raise ValueError(
                f"The {name} reads text states of width {stage.network.text_dim}, but the text encoder "
                f"{encoder.name!r} gives {encoder.dim}: take the one it was trained with."
            )
    if (network.vocab_size, 1) != (tokenizer.codebook_size, tokenizer.groups):
        raise ValueError(
            f"The network draws {network.vocab_size} codes, but its tokenizer has {tokenizer.codebook_size} "
            f"in {tokenizer.groups} groups: take the tokenizer it was trained with."
        )


def check_candidates(sampling: NuwaSampling, ranker: Any) -> None:
    """Refuses several candidates where nothing ranks them."""
    if sampling.num_candidates > 1 and ranker is None:
        raise ValueError(
            f"num_candidates is {sampling.num_candidates}, but this checkpoint has no ranker to choose among "
            "them: generate 1, or take a checkpoint with a run of the task 'video_ranker'."
        )


def check_frames(frames: Any, most: int) -> int:
    """The number of frames to draw: the network's where it is None, at most `most`."""
    if frames is None:
        return most
    check_steps("frames", frames)
    if frames > most:
        raise ValueError(
            f"frames is {frames}, but this checkpoint has positions for {most}: ask for at most that many."
        )
    return int(frames)


def check_clips(name: str, clips: Any, size: tuple[int, int], most: int) -> np.ndarray:
    """Clips uint8 (batch, frames, height, width, 3) of `size`, of 1 to `most` frames."""
    array = np.asarray(clips)
    if array.dtype != np.uint8 or array.ndim != 5 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(
            f"{name} must be uint8 of shape (batch, frames, height, width, 3) and not empty, given "
            f"{array.dtype} of shape {array.shape}."
        )
    if array.shape[2:4] != size:
        raise ValueError(
            f"{name} have frames of {array.shape[2]}x{array.shape[3]} pixels, but this checkpoint draws "
            f"{size[0]}x{size[1]}: resize them."
        )
    if array.shape[1] > most:
        raise ValueError(
            f"{name} have {array.shape[1]} frames, but this checkpoint has positions for {most}: cut them."
        )
    return array


def check_clip_mask(mask: Any, clips: np.ndarray) -> np.ndarray:
    """The mask, bool, of the clips' (batch, frames, height, width) or of the last three or two axes."""
    array = np.asarray(mask)
    whole = clips.shape[:4]
    if array.dtype != np.bool_ or array.shape not in (whole, whole[1:], whole[2:]):
        raise ValueError(
            f"mask must be bool of shape {whole}, {whole[1:]} or {whole[2:]}, True where pixels are to be "
            f"redrawn, given {array.dtype} of shape {array.shape}."
        )
    return np.broadcast_to(array, whole)
