"""Published VQGANs for `TamingVQGAN`: taming-transformers', LlamaGen's, and diffusers' `VQModel` (aMUSEd).

The three hold the same network under other names. Its sizes are read from the shapes of the tensors.
"""

import re
from typing import Any, NamedTuple

import numpy as np
from flax import traverse_util

from muse_jax.interop.name_table import StrictTensors
from muse_jax.nn.shapes import parameter_shapes
from muse_jax.tokenizers.taming import TamingVQGAN


class Layout(NamedTuple):
    """The names of a code base's tensors.

    down, up: a level of the encoder and of the decoder, `{level}` counted from full resolution,
      `{reverse}` from the other end.
    block, attention: inside a level. skip: inside a block. parts: inside an attention.
    """

    down: str
    up: str
    block: str
    attention: str
    downsample: str
    upsample: str
    middle: tuple[str, str, str]
    skip: str
    parts: dict[str, str]
    norm_out: str


_ATTENTION = {"norm": "norm", "query": "q", "key": "k", "value": "v", "out": "proj_out"}
LAYOUTS = {
    "taming": Layout(
        "down.{level}",
        "up.{level}",
        "block.{index}",
        "attn.{index}",
        "downsample.conv",
        "upsample.conv",
        ("mid.block_1", "mid.attn_1", "mid.block_2"),
        "nin_shortcut",
        _ATTENTION,
        "norm_out",
    ),
    "llamagen": Layout(
        "conv_blocks.{level}",
        "conv_blocks.{reverse}",
        "res.{index}",
        "attn.{index}",
        "downsample.conv",
        "upsample.conv",
        ("mid.0", "mid.1", "mid.2"),
        "nin_shortcut",
        _ATTENTION,
        "norm_out",
    ),
    "diffusers": Layout(
        "down_blocks.{level}",
        "up_blocks.{reverse}",
        "resnets.{index}",
        "attentions.{index}",
        "downsamplers.0.conv",
        "upsamplers.0.conv",
        ("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
        "conv_shortcut",
        {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "out": "to_out.0"},
        "conv_norm_out",
    ),
}


def read_vqgan(tensors: StrictTensors, layout: str, **fields: Any) -> tuple[TamingVQGAN, dict[str, Any]]:
    """The tokenizer and its float32 params.

    Args:
      tensors: of the whole model; what is left over is the caller's to refuse.
      layout: a key of `LAYOUTS`.
      fields: those of the network that shapes do not tell: `black`, `normalize_codes`, `norm_groups`.

    Raises:
      ValueError: one sentence, for a tensor that is missing or has another shape.
    """
    names = LAYOUTS[layout]
    module = TamingVQGAN(**_sizes(tensors, names), **fields)
    levels = len(module.channels)
    leaves = {}
    for path, leaf in traverse_util.flatten_dict(parameter_shapes(module), sep="/").items():
        name = _foreign_name(path, names, levels)
        array = np.asarray(tensors.read(name), np.float32)
        if path.endswith("kernel"):
            array = array.reshape(*array.shape, *[1] * (4 - array.ndim)).transpose(2, 3, 1, 0)
        if array.shape != leaf.shape:
            raise ValueError(
                f"The tensor {name!r} of {tensors.where} has shape {tensors.shape(name)}, which does not fit "
                f"{path!r} of shape {leaf.shape}: the file is damaged or of another model."
            )
        leaves[path] = array
    return module, traverse_util.unflatten_dict(leaves, sep="/")


def _sizes(tensors: StrictTensors, names: Layout) -> dict[str, Any]:
    """The sizes of the network, from which tensors there are and how large they are."""

    def there(prefix: str) -> bool:
        return f"encoder.{prefix}.weight" in tensors

    def block(level: int, index: int) -> str:
        return f"{names.down}.{names.block}.conv1".format(level=level, index=index)

    if not there(block(0, 0)):
        tensors.read(f"encoder.{block(0, 0)}.weight")  # says that it is missing
    levels, blocks = 1, 1
    while there(block(levels, 0)):
        levels += 1
    while there(block(0, blocks)):
        blocks += 1
    query = names.parts["query"]
    attention = f"{names.down}.{names.attention}.{query}"
    return {
        "channels": tuple(tensors.shape(f"encoder.{block(level, 0)}.weight")[0] for level in range(levels)),
        "num_res_blocks": blocks,
        "attention_levels": tuple(n for n in range(levels) if there(attention.format(level=n, index=0))),
        "middle_attention": there(f"{names.middle[1]}.{query}"),
        "latent_dim": tensors.shape("encoder.conv_out.weight")[0],
        "codebook_size": tensors.shape("quantize.embedding.weight")[0],
        "embed_dim": tensors.shape("quantize.embedding.weight")[1],
    }


def _foreign_name(path: str, names: Layout, levels: int) -> str:
    """The name of the tensor that a parameter is read from."""
    if path == "quantizer/codebook":
        return "quantize.embedding.weight"
    side, ours, leaf = path.split("/")
    suffix = "bias" if leaf == "bias" else "weight"
    if ours in ("to_code", "from_code"):
        return f"{'' if ours == 'to_code' else 'post_'}quant_conv.{suffix}"
    return f"{side}.{_foreign_module(ours, names, levels)}.{suffix}"


def _foreign_module(ours: str, names: Layout, levels: int) -> str:
    if found := re.fullmatch(r"(down|up)_(\d+)_(?:(block|attention)_(\d+)_)?(\w+)", ours):
        side, level, kind, index, part = found.groups()
        prefix = getattr(names, side).format(level=level, reverse=levels - 1 - int(level))
        if kind is None:
            return f"{prefix}.{getattr(names, part)}"
        return f"{prefix}.{getattr(names, kind).format(index=index)}.{_part(kind, part, names)}"
    if found := re.fullmatch(r"middle_(block_1|attention|block_2)_(\w+)", ours):
        where, part = found.groups()
        index = ("block_1", "attention", "block_2").index(where)
        return f"{names.middle[index]}.{_part(where, part, names)}"
    return names.norm_out if ours == "norm_out" else ours


def _part(kind: str, part: str, names: Layout) -> str:
    if kind == "attention":
        return names.parts[part]
    return names.skip if part == "skip" else part
