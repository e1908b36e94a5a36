"""Measures of pictures: features, Fréchet distances, retrieval, and what a tokenizer keeps."""

from muse_jax.evaluation.features import extract_features, extract_style_features
from muse_jax.evaluation.frechet import FeatureMoments, fd_efficientnet_lite0, frechet_distance
from muse_jax.evaluation.reconstruction import evaluate_tokenizer, psnr, reconstruct, ssim
from muse_jax.evaluation.retrieval import StyleClassifier, concept_ranks, nearest_labels, top_k

__all__ = [
    "FeatureMoments",
    "StyleClassifier",
    "concept_ranks",
    "evaluate_tokenizer",
    "extract_features",
    "extract_style_features",
    "fd_efficientnet_lite0",
    "frechet_distance",
    "nearest_labels",
    "psnr",
    "reconstruct",
    "ssim",
    "top_k",
]
