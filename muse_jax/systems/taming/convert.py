"""PyTorch checkpoints of VQGANs: taming-transformers' (Lightning) and LlamaGen's."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from muse_jax.checkpointing.pretrained import fields_of, write_pretrained
from muse_jax.interop.name_table import StrictTensors
from muse_jax.interop.torch_pickle import load_torch
from muse_jax.tokenizers import TamingVQGAN
from muse_jax.tokenizers.published import read_vqgan


@dataclass(frozen=True, eq=False)
class ConvertedTokenizer:
    """A tokenizer with its weights."""

    module: TamingVQGAN
    params: Any

    def weights(self) -> dict[str, Any]:
        """The weights of its pretrained directory: the stem of a file -> parameters."""
        return {"vqgan": self.params}

    def save_pretrained(self, directory: str | Path, dtype: str = "float16") -> dict[str, int]:
        """Writes a directory that `config.tokenizer` can name; see `Pipeline.save_pretrained`."""
        config = {"system": "taming", "vqgan": {"network": fields_of(self.module)}}
        return write_pretrained(directory, config, self.weights(), dtype)


def convert_taming(path: str | Path) -> ConvertedTokenizer:
    """The VQGAN of a Lightning checkpoint of taming-transformers, without its discriminator.

    Raises:
      ValueError: one sentence, for a file that is missing, damaged, of another model, or that holds a call.
    """
    tensors = _open(path, "state_dict")
    module, params = read_vqgan(tensors, "taming")
    tensors.refuse_surplus(["loss."])
    return ConvertedTokenizer(module, params)


def convert_llamagen(path: str | Path) -> ConvertedTokenizer:
    """The VQGAN of a LlamaGen checkpoint, whose codes are unit vectors.

    Raises:
      ValueError: as `convert_taming`.
    """
    tensors = _open(path, "model")
    module, params = read_vqgan(tensors, "llamagen", normalize_codes=True)
    tensors.refuse_surplus(["quantize.codebook_used"])
    return ConvertedTokenizer(module, params)


def _open(path: str | Path, key: str) -> StrictTensors:
    if not Path(path).is_file():
        raise ValueError(f"There is no file {path}: give a checkpoint that PyTorch wrote.")
    checkpoint = load_torch(path)
    state = checkpoint.get(key) if isinstance(checkpoint, Mapping) else None
    if not isinstance(state, Mapping):
        raise ValueError(f"{path} has no {key!r}, under which the weights are: it is of another code base.")
    return StrictTensors({name: leaf for name, leaf in state.items() if isinstance(leaf, np.ndarray)}, path)
