"""Tokenizers: samples to latents on a grid and back; clusters of their codes."""

from muse_jax.tokenizers.base import LatentSpec, Tokenizer, flat_tokens, token_grid
from muse_jax.tokenizers.clusters import Clusters, cluster_codebook, codebook_rows, load_clusters
from muse_jax.tokenizers.quantizer import VectorQuantizer
from muse_jax.tokenizers.taming import TamingVQGAN
from muse_jax.tokenizers.video_vqvae import VideoVQVAE
from muse_jax.tokenizers.vqgan import VQGAN
from muse_jax.tokenizers.vqgan_seg import VQGANSeg

__all__ = [
    "VQGAN",
    "VQGANSeg",
    "Clusters",
    "LatentSpec",
    "TamingVQGAN",
    "Tokenizer",
    "VectorQuantizer",
    "VideoVQVAE",
    "cluster_codebook",
    "codebook_rows",
    "flat_tokens",
    "load_clusters",
    "token_grid",
]
