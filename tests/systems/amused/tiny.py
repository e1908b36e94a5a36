"""A small aMUSEd, and diffusers' files of one with random weights."""

import json
from pathlib import Path

import jax
import numpy as np
from tokenizers import Tokenizer

from muse_jax.interop.clip import read_clip_tokenizer
from muse_jax.nn.clip import CLIPText
from muse_jax.nn.shapes import parameter_shapes
from muse_jax.systems.amused.pipeline import AmusedPipeline
from muse_jax.systems.amused.sampling import AmusedSampling
from muse_jax.systems.amused.text import PromptEncoder
from muse_jax.systems.amused.uvit import UVit2D
from muse_jax.systems.base import LoadedStage
from muse_jax.text.text_tokenizers import JSONTokenizer
from muse_jax.tokenizers import TamingVQGAN

LETTERS = [chr(code) for code in range(97, 123)]
VOCABULARY = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "re", "red</w>", "<|startoftext|>"]
VOCABULARY.append("<|endoftext|>")
TEXT = CLIPText(len(VOCABULARY), 16, depth=2, heads=2, mlp_dim=24, max_positions=9, projection=16)
NETWORK = UVit2D(
    vocab_size=20,
    codebook_size=16,
    grid=(4, 4),
    width=16,
    depth=2,
    heads=2,
    mlp_dim=24,
    channels=12,
    conv_blocks=1,
    conv_heads=3,
    embed_dim=8,
    text_dim=16,
    pooled_dim=16,
    micro_dim=4,
)
TOKENIZER = TamingVQGAN(
    channels=(8, 8),
    num_res_blocks=1,
    attention_levels=(),
    middle_attention=False,
    latent_dim=4,
    codebook_size=16,
    embed_dim=4,
    norm_groups=4,
    black=0.0,
)


def write_words(folder: Path, pad: str = "<|endoftext|>") -> Tokenizer:
    """CLIP's tokenizer with the pieces of `VOCABULARY`, as vocab.json and merges.txt."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(VOCABULARY)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr e\nre d</w>\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": pad, "model_max_length": 77}))
    return read_clip_tokenizer(folder)[0]


def tiny_pipeline(folder: Path) -> AmusedPipeline:
    """A pipeline with random weights, whose tokens are 2 pixels wide."""

    def params(module, seed):  # without compiling its initialization
        rng = np.random.default_rng(seed)

        def draw(path, leaf):
            drawn = rng.normal(size=leaf.shape) / np.sqrt(np.prod(leaf.shape[:-1]))
            return (drawn + ("scale" in jax.tree_util.keystr(path))).astype(np.float32)

        return jax.tree_util.tree_map_with_path(draw, parameter_shapes(module))

    text = PromptEncoder(TEXT, params(TEXT, 0), JSONTokenizer.wrap(write_words(folder), len(VOCABULARY) - 1))
    stage = LoadedStage(
        NETWORK,
        params(NETWORK, 1),
        AmusedSampling(num_steps=3),
        TOKENIZER,
        params(TOKENIZER, 2),
    )
    return AmusedPipeline(prompt_encoder=text, transformer=stage)


def write_diffusers(folder: Path, *, depth: int, codes: int, levels: int, grid: int, resample: bool):
    """A directory that diffusers' `AmusedPipeline` wrote, with random weights, and that pipeline."""
    import torch
    import transformers
    from diffusers import AmusedPipeline, AmusedScheduler, UVit2DModel, VQModel
    from transformers import CLIPTokenizer

    torch.manual_seed(0)
    write_words(folder / "words")
    end = len(VOCABULARY) - 1
    text = transformers.CLIPTextConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=end - 1,
        eos_token_id=end,
        pad_token_id=end,
    )
    vqmodel = VQModel(
        block_out_channels=[32] * (levels - 1) + [64],
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        latent_channels=8,
        layers_per_block=2,
        num_vq_embeddings=codes,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    )
    network = UVit2DModel(
        hidden_size=32,
        cond_embed_dim=32,
        micro_cond_encode_dim=8,
        micro_cond_embed_dim=40,
        encoder_hidden_size=32,
        vocab_size=codes + 64,
        codebook_size=codes,
        in_channels=24,
        block_out_channels=24,
        num_res_blocks=3,
        block_num_heads=3,
        num_hidden_layers=depth,
        num_attention_heads=4,
        intermediate_size=48,
        sample_size=grid,
        downsample=resample,
        upsample=resample,
    )
    encoder = transformers.CLIPTextModelWithProjection(text)
    with torch.no_grad():  # the libraries' initial weights leave norms at 1 and many numbers at 0
        for parameter in encoder.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
        for module in (network, vqmodel):
            for parameter in module.parameters():
                parameter += 0.05 * torch.randn_like(parameter)
        vqmodel.quantize.embedding.weight.copy_(torch.randn(codes, 8))
    pipeline = AmusedPipeline(
        vqmodel.eval(),
        CLIPTokenizer.from_pretrained(folder / "words", model_max_length=77),
        encoder.eval(),
        network.eval(),
        AmusedScheduler(mask_token_id=codes + 63),
    )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline", pipeline
