"""Files in the layout of the released MaskGIT, with random weights."""

import numpy as np
from flax import serialization, traverse_util

CODES, CLASSES, WIDTH, HEADS, MLP, DEPTH, SIDE = 12, 5, 8, 2, 16, 2, 2
FILTERS, MULTIPLIERS, EMBED = 32, (1, 2), 3


def _transformer_shapes():
    head = WIDTH // HEADS
    shapes = {
        "Embed_0/word_embeddings/embedding": (CODES + CLASSES + 1, WIDTH),
        "Embed_0/position_embeddings/embedding": (SIDE**2 + 1, WIDTH),
        "MlmLayer_0/mlm_dense/kernel": (WIDTH, WIDTH),
        "MlmLayer_0/mlm_dense/bias": (WIDTH,),
        "MlmLayer_0/mlm_bias/bias": (CODES + CLASSES + 1,),
    }
    norms = ["Embed_0/embeddings_ln", "MlmLayer_0/mlm_ln"]
    for layer in range(DEPTH):
        name = f"TransformerLayer_{layer}"
        norms += [f"{name}/Attention_0/attention_output_ln", f"{name}/Mlp_0/layer_output_ln"]
        attention = f"{name}/Attention_0/self_attention"
        for part in ("query", "key", "value"):
            shapes |= {
                f"{attention}/{part}/kernel": (WIDTH, HEADS, head),
                f"{attention}/{part}/bias": (HEADS, head),
            }
        shapes |= {f"{attention}/out/kernel": (HEADS, head, WIDTH), f"{attention}/out/bias": (WIDTH,)}
        shapes |= {f"{name}/Mlp_0/intermediate_output/kernel": (WIDTH, MLP)}
        shapes |= {f"{name}/Mlp_0/intermediate_output/bias": (MLP,)}
        shapes |= {
            f"{name}/Mlp_0/layer_output/kernel": (MLP, WIDTH),
            f"{name}/Mlp_0/layer_output/bias": (WIDTH,),
        }
    return shapes | {f"{norm}/{leaf}": (WIDTH,) for norm in norms for leaf in ("scale", "bias")}


def _block_shapes(name, before, after):
    shapes = {f"{name}/Conv_0/kernel": (3, 3, before, after), f"{name}/Conv_1/kernel": (3, 3, after, after)}
    if before != after:  # the projection reads what the block has made
        shapes[f"{name}/Conv_2/kernel"] = (1, 1, after, after)
    for norm, width in (("GroupNorm_0", before), ("GroupNorm_1", after)):
        shapes |= {f"{name}/{norm}/{leaf}": (width,) for leaf in ("scale", "bias")}
    return shapes


def _tokenizer_shapes():
    low, high = (FILTERS * multiplier for multiplier in MULTIPLIERS)
    return {
        "quantizer/codebook": (CODES, EMBED),
        "encoder/Conv_0/kernel": (3, 3, 3, low),
        **_block_shapes("encoder/ResBlock_0", low, low),
        **_block_shapes("encoder/ResBlock_1", low, high),
        **_block_shapes("encoder/ResBlock_2", high, high),
        "encoder/GroupNorm_0/scale": (high,),
        "encoder/GroupNorm_0/bias": (high,),
        "encoder/Conv_1/kernel": (1, 1, high, EMBED),
        "encoder/Conv_1/bias": (EMBED,),
        "decoder/Conv_0/kernel": (3, 3, EMBED, high),
        "decoder/Conv_0/bias": (high,),
        **_block_shapes("decoder/ResBlock_0", high, high),
        **_block_shapes("decoder/ResBlock_1", high, high),
        "decoder/Conv_1/kernel": (3, 3, high, high),
        "decoder/Conv_1/bias": (high,),
        **_block_shapes("decoder/ResBlock_2", high, low),
        "decoder/GroupNorm_0/scale": (low,),
        "decoder/GroupNorm_0/bias": (low,),
        "decoder/Conv_2/kernel": (3, 3, low, 3),
        "decoder/Conv_2/bias": (3,),
    }


def write_released(folder, drop=None, **surplus):
    """The two files, and the arrays of both by name; `drop` leaves one out, `surplus` adds some."""
    rng, arrays = np.random.default_rng(0), {}
    for kind, shapes in (("maskgit", _transformer_shapes()), ("tokenizer", _tokenizer_shapes())):
        tree = {name: rng.normal(size=shape).astype(np.float32) * 0.3 for name, shape in shapes.items()}
        arrays |= tree
        kept = {name: array for name, array in tree.items() if name != drop} | surplus
        nested = {"params": traverse_util.unflatten_dict(kept, sep="/")}
        (folder / f"{kind}_imagenet256_checkpoint").write_bytes(serialization.msgpack_serialize(nested))
    return arrays
