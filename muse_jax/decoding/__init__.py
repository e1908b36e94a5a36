"""How tokens are drawn, whatever the network: pure functions of a `logits_fn`, initial tokens and a key."""

from muse_jax.decoding.autoregressive import AutoregressiveState, Sampling, autoregressive_decode
from muse_jax.decoding.clusters import sample_by_cluster
from muse_jax.decoding.coglm import caption_cross_entropy, draw_caption, draw_image
from muse_jax.decoding.coglm_superres import draw_fine, redraw_fine
from muse_jax.decoding.guidance import LogitsFn, guided, guided_logits_fn
from muse_jax.decoding.halton import halton_order
from muse_jax.decoding.lopar import lopar_decode, tile_turns, turns_table, turns_top_k
from muse_jax.decoding.masked import DecodeState, mask_free_edit, masked_decode
from muse_jax.decoding.progress import DecodeStep, Progress, listening, silent, without_reports
from muse_jax.decoding.sampling import sample_with_log_prob, top_k_filter, top_p_filter
from muse_jax.decoding.schedules import cosine_mask_ratio, sample_mask, sample_mask_ratio

__all__ = [
    "AutoregressiveState",
    "DecodeState",
    "DecodeStep",
    "LogitsFn",
    "Progress",
    "Sampling",
    "autoregressive_decode",
    "caption_cross_entropy",
    "cosine_mask_ratio",
    "draw_caption",
    "draw_fine",
    "draw_image",
    "guided",
    "guided_logits_fn",
    "halton_order",
    "listening",
    "lopar_decode",
    "mask_free_edit",
    "masked_decode",
    "redraw_fine",
    "sample_by_cluster",
    "sample_mask",
    "sample_mask_ratio",
    "sample_with_log_prob",
    "silent",
    "without_reports",
    "tile_turns",
    "top_k_filter",
    "top_p_filter",
    "turns_table",
    "turns_top_k",
]
