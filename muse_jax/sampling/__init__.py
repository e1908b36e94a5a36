"""Samplers for token networks: pure functions of a `logits_fn`, initial tokens and a key."""

from muse_jax.sampling.autoregressive import AutoregressiveState, Sampling, autoregressive_decode
from muse_jax.sampling.clusters import sample_by_cluster
from muse_jax.sampling.guidance import LogitsFn, guided, guided_logits_fn
from muse_jax.sampling.halton import halton_order
from muse_jax.sampling.logits import sample_with_log_prob, top_k_filter, top_p_filter
from muse_jax.sampling.lopar import lopar_decode, lopar_top_k, step_table, tile_steps
from muse_jax.sampling.masked import DecodeState, mask_free_edit, masked_decode
from muse_jax.sampling.progress import DecodeStep, Progress, listening, silent, without_reports
from muse_jax.sampling.schedules import cosine_mask_ratio, sample_mask, sample_mask_ratio

__all__ = [
    "AutoregressiveState",
    "DecodeState",
    "DecodeStep",
    "LogitsFn",
    "Progress",
    "Sampling",
    "autoregressive_decode",
    "cosine_mask_ratio",
    "guided",
    "guided_logits_fn",
    "halton_order",
    "listening",
    "lopar_decode",
    "mask_free_edit",
    "masked_decode",
    "sample_by_cluster",
    "sample_mask",
    "sample_mask_ratio",
    "sample_with_log_prob",
    "silent",
    "without_reports",
    "tile_steps",
    "top_k_filter",
    "top_p_filter",
    "step_table",
    "lopar_top_k",
]
