"""Networks: token ids and a condition to logits. They know nothing of sampling, data or devices."""

from muse_jax.networks.coglm import CogLM
from muse_jax.networks.masked_transformer import MaskedTransformer
from muse_jax.networks.superres import SuperResTransformer

__all__ = ["CogLM", "MaskedTransformer", "SuperResTransformer"]
