"""Programs that serve a pipeline without its Python code: StableHLO, weights, the tokenizer's file."""

import importlib.util
import json
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import export

from muse_jax.checkpointing.safetensors import DTYPES, weights_to_bytes
from muse_jax.sampling.progress import silent, without_reports
from pallas_kernels.dispatch import current_platform

PLATFORMS = ("cpu", "cuda", "tpu")
PROGRAM, WEIGHTS, MANIFEST = "program.stablehlo", "weights.safetensors", "program.json"


def save_program(pipe: Any, directory: str | Path, batch_size: int, dtype: str = "float16") -> dict[str, int]:
    """Writes the program of `pipe.generate` for one batch size, for CPU, CUDA and TPU.

    `jax.export.deserialize(...).call(weights, inputs, sampling, seed)` runs it, with dictionaries of arrays:
    the tensors of weights.safetensors, the token ids and masks of the prompts, and the numbers among the
    sampling parameters. program.json lists names, shapes and types, and the checkpoint's numbers. The number
    of steps and other static parameters are those of the checkpoint.

    Args:
      pipe: a pipeline with weights.
      directory: directory to write; created if necessary.
      batch_size: number of prompts of each call, at least 1.
      dtype: type of the stored weights: "float16", "bfloat16" or "float32"; the program computes in its own.

    Returns:
      The size in bytes of each file written.

    Raises:
      ValueError: the batch size is below 1, JAX does not run on a CPU here, the extra "serve" is not
        installed, or weights overflow `dtype`.
    """
    if batch_size < 1:
        raise ValueError(f"The batch size is {batch_size}, but a program serves at least 1 prompt.")
    if current_platform() != "cpu":
        raise ValueError(
            f"JAX runs on {current_platform()} here, whose kernels run nowhere else: export a program with "
            "JAX_PLATFORMS=cpu."
        )
    if importlib.util.find_spec("flatbuffers") is None:
        raise ValueError(
            "Programs are written with the package flatbuffers, which is not installed: install the extra "
            "'serve' with `pip install -e '.[serve]'`."
        )
    exported, weights, inputs, sampling = export_program(pipe, batch_size, DTYPES[dtype])
    manifest = {
        "system": pipe.system_name,
        "platforms": list(PLATFORMS),
        "inputs": {name: [list(leaf.shape), leaf.dtype.name] for name, leaf in inputs.items()},
        "sampling": {name: [np.asarray(leaf).item(), leaf.dtype.name] for name, leaf in sampling.items()},
        "outputs": [[list(leaf.shape), leaf.dtype.name] for leaf in exported.out_avals],
    }
    files = {
        PROGRAM: bytes(exported.serialize()),
        WEIGHTS: weights_to_bytes(traverse_util.unflatten_dict(weights, sep="/"), dtype),
        MANIFEST: (json.dumps(manifest, indent=1) + "\n").encode(),
        **pipe.vocabulary(),
    }
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        unfinished = directory / f".{name}.tmp"
        unfinished.write_bytes(content)
        unfinished.replace(directory / name)
    return {name: len(content) for name, content in files.items()}


def export_program(
    pipe: Any, batch_size: int, dtype: Any, platforms: tuple[str, ...] = PLATFORMS
) -> tuple[export.Exported, dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Exports the program of `pipe.generate`, which takes weights in `dtype`.

    Returns:
      The program, and its weights, inputs and sampling parameters by name.
    """
    program, arguments = pipe.generate_call(batch_size)
    paths, tree = jax.tree_util.tree_flatten_with_path(arguments)
    leaves = {_name(path): leaf for path, leaf in paths}
    assert len(leaves) == len(paths), "Two inputs have one name."
    own = {id(leaf) for leaf in jax.tree.leaves(pipe.params)}
    weights = {name: leaf for name, leaf in leaves.items() if id(leaf) in own}
    inputs = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, jax.ShapeDtypeStruct)}
    rest = {name: leaf for name, leaf in leaves.items() if name not in weights | inputs}
    sampling = {name: leaf for name, leaf in rest.items() if isinstance(leaf, np.floating | np.integer)}
    constants = {name: leaf for name, leaf in rest.items() if name not in sampling}

    def serve(weights: Any, inputs: Any, sampling: Any, seed: Any) -> Any:
        typed = {name: leaf.astype(leaves[name].dtype) for name, leaf in weights.items()}
        values = {**typed, **inputs, **sampling, **constants}
        rebuilt = jax.tree.unflatten(tree, [values[name] for name in leaves])
        return program(pipe.modules, *rebuilt, seed=seed, progress=silent())

    shapes = partial(jax.tree.map, lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), leaf.dtype))
    stored = {name: jax.ShapeDtypeStruct(leaf.shape, dtype) for name, leaf in weights.items()}
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    # As in a pipeline, the draws of a sample do not depend on the batch size.
    with without_reports(), jax.threefry_partitionable(True):
        exported = export.export(jax.jit(serve), platforms=platforms)(
            stored, shapes(inputs), shapes(sampling), seed
        )
    return exported, weights, inputs, sampling


def _name(path: tuple[Any, ...]) -> str:
    """Name of an input: its path below the request, which is the first argument of most programs."""
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    head, _, rest = name.partition("/")
    return rest or head
