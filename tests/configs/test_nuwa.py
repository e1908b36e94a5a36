"""The configs of NUWA: that they are configs of the trainer, and go together."""

import importlib

import pytest

from muse_jax.systems.nuwa.transformer import NuwaTransformer
from muse_jax.training import validate_config

NAMES = (
    "nuwa.base_870m",
    "nuwa.vqgan_f16_336",
    "motion.nuwa",
    "motion.nuwa_axial",
    "motion.nuwa_four_frames",
    "motion.nuwa_full",
    "motion.nuwa_images",
    "motion.nuwa_masked",
    "motion.nuwa_raster",
    "motion.nuwa_video_only",
    "motion.vqgan64",
    "motion.vqgan64_images",
    "motion.vqgan_seg64",
    "motion.video_vqvae",
)
PAIRS = [("nuwa.base_870m", "nuwa.vqgan_f16_336"), ("motion.nuwa", "motion.vqgan64")]


def load(name):
    return importlib.import_module(f"configs.{name}").get_config()


@pytest.mark.parametrize("name", NAMES)
def test_the_trainer_takes_the_config(name):
    config = load(name)
    assert validate_config(config).model.to_dict() == config.model.to_dict()


@pytest.mark.parametrize("name, tokenizer", PAIRS)
def test_the_network_reads_the_codes_of_its_tokenizer(name, tokenizer):
    config, codes = load(name), load(tokenizer)
    network = NuwaTransformer(**config.model.to_dict())
    assert network.vocab_size == codes.model.codebook_size and network.code_dim >= codes.model.embed_dim
    assert network.grid[0] == config.data.frames and config.data.image_size == codes.data.image_size
    factor = codes.model.get("patch", 1) * 2 ** (len(codes.model.multipliers) - 1)
    assert network.grid[1:] == (config.data.image_size // factor,) * 2
