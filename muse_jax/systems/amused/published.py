"""The sizes of the published checkpoints, as their conversions' config.json have them."""

from dataclasses import replace
from typing import Any

from muse_jax.checkpointing.pretrained import fields_of
from muse_jax.nn.clip import CLIPText
from muse_jax.systems.amused.sampling import AmusedSampling
from muse_jax.systems.amused.uvit import UVit2D
from muse_jax.tokenizers import TamingVQGAN

_TEXT = CLIPText(49408, 768, depth=12, heads=12, mlp_dim=3072, max_positions=77, projection=768)
_TOKENIZER = TamingVQGAN(
    channels=(128, 256, 256, 512, 768),
    attention_levels=(),
    middle_attention=False,
    latent_dim=64,
    codebook_size=8192,
    embed_dim=64,
    black=0.0,
)
_NETWORK = UVit2D()


def _config(network: UVit2D) -> dict[str, Any]:
    return {
        "system": "amused",
        "text_encoder": {"network": fields_of(_TEXT), "pad_id": 49407},
        "transformer": {
            "network": fields_of(network),
            "sampling": AmusedSampling().to_dict(),
            "tokenizer": {"class": "TamingVQGAN", **fields_of(_TOKENIZER)},
        },
    }


PUBLISHED = {
    "amused-256": _config(_NETWORK),
    "amused-512": _config(replace(_NETWORK, grid=(32, 32), resample=True)),
}
