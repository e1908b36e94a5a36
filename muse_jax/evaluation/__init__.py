"""Evaluation: the evaluators that a config names, feature networks, and distances of distributions."""

from muse_jax.evaluation.concepts import StyleClassifier, concept_ranks, nearest_labels, top_k
from muse_jax.evaluation.evaluators import Context, Evaluator, Report, make_evaluator, make_evaluators
from muse_jax.evaluation.features import extract_features, extract_style_features
from muse_jax.evaluation.frechet import frechet_distance
from muse_jax.evaluation.image_quality import psnr, ssim

__all__ = [
    "Context",
    "Evaluator",
    "Report",
    "StyleClassifier",
    "concept_ranks",
    "extract_features",
    "extract_style_features",
    "frechet_distance",
    "make_evaluator",
    "make_evaluators",
    "nearest_labels",
    "psnr",
    "ssim",
    "top_k",
]
