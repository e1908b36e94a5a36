"""NUWA's sampling: raster order with a cache, exact wavefronts, and masked decoding, in one run.

Raster order and wavefronts share random weights and must give the same tokens. The network of masked decoding
has the same sizes. With --peer, nuwa-pytorch (pip install nuwa-pytorch, in an environment of its own)
generates as many tokens with a network of about the same size, in a process of that environment's Python.

    python -m experiments.benchmark.nuwa                             # the size of configs/motion/nuwa.py
    python -m experiments.benchmark.nuwa --grid=4,8,8 --layers=4 --peer=~/oracle/bin/python
"""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax.core import meta

from experiments import apps
from experiments.benchmark.timing import machine, time_in_turn
from muse_jax.systems.nuwa.sampling import Draw, NuwaSampling, count_steps, draw_tokens
from muse_jax.systems.nuwa.transformer import NuwaTransformer

_GRID = flags.DEFINE_list("grid", ["8", "8", "8"], "Frames, height and width of the token grid.")
_WIDTH = flags.DEFINE_integer("width", 256, "Width of the network.", lower_bound=64)
_DEPTH = flags.DEFINE_integer("layers", 6, "Depth of the network.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 1, "Batch size.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed runs of each.", lower_bound=1)
_PEER = flags.DEFINE_string("peer", "", "Python of an environment with nuwa-pytorch; none: it is left out.")

_TEXT, _CODES = 24, 4096
_PEER_PROGRAM = Path(__file__).with_name("nuwa_peer.py")


def main() -> None:
    """Generates in each way, compares the tokens and prints the times."""
    grid = tuple(int(size) for size in _GRID.value)
    runs, lines, exact = {}, {}, {}
    for name, shift, sampling in (
        ("raster", "3d", NuwaSampling(order="raster")),
        ("wavefront", "3d", NuwaSampling(order="wavefront")),
        ("masked, 12 steps", "none", NuwaSampling(num_steps=12)),
        ("masked, 24 steps", "none", NuwaSampling(num_steps=24)),
    ):
        network = NuwaTransformer(
            _CODES,
            grid,
            width=_WIDTH.value,
            depth=_DEPTH.value,
            heads=_WIDTH.value // 64,
            mlp_dim=2 * _WIDTH.value,
            text_dim=384,
            code_dim=64,
            shift=shift,
        )
        params = meta.unbox(jax.jit(network.init)(jax.random.key(0), *network.example_inputs()))["params"]
        # Logits of a spread that a trained network has, so that equal tokens mean something.
        params["head"] = 50 * params["head"]
        runs[name] = _drawer(network, params, sampling)
        lines[name] = count_steps(network, sampling, grid[0]), sum(x.size for x in jax.tree.leaves(params))
        if shift == "3d":
            exact[name] = np.asarray(runs[name](0))
    times = time_in_turn(runs, _REPEATS.value)
    medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
    print(f"NUWA, {'x'.join(_GRID.value)} tokens, batch {_BATCH.value}, float32, guided")
    for name, seconds in medians.items():
        steps, count = lines[name]
        ratio = medians["raster"] / seconds
        print(f"  {name:<18}{steps:5} steps {seconds:8.3f} s {ratio:6.2f}x  ({count / 1e6:.1f}M parameters)")
    equal = np.mean(exact["raster"] == exact["wavefront"])
    print(f"  {equal:.1%} of the tokens of raster order and wavefronts are equal")
    if _PEER.value:
        seconds, count = _run_peer(grid)
        size = f"({count / 1e6:.1f}M parameters)"
        print(
            f"  {'nuwa-pytorch':<18}            {seconds:8.3f} s {medians['raster'] / seconds:6.4f}x {size}"
        )
    print(machine())


def _drawer(network: NuwaTransformer, params: Any, sampling: NuwaSampling) -> Callable[[int], Any]:
    """A function that generates videos from the number of the repeat."""
    batch = _BATCH.value
    tokens = jnp.zeros((batch, network.grid[0] * network.frame_tokens), jnp.int32)
    text = jax.random.normal(jax.random.key(1), (batch, _TEXT, 384)), jnp.ones((batch, _TEXT), bool)
    null = jnp.zeros((1, _TEXT, 384)), jnp.ones((1, _TEXT), bool)
    draw = Draw(tokens, jnp.ones(tokens.shape, bool), text, null)

    @jax.jit
    def run(params: Any, draw: Draw, seed: jax.Array) -> jax.Array:
        return draw_tokens(network, params, draw, jax.random.key(seed), sampling)

    return lambda repeat: run(params, draw, jnp.int32(repeat))


def _run_peer(grid: tuple[int, ...]) -> tuple[float, int]:
    """Seconds of nuwa-pytorch and its number of parameters."""
    sizes = {
        "grid": grid,
        "width": _WIDTH.value,
        "layers": _DEPTH.value,
        "batch": _BATCH.value,
        "codes": _CODES,
        "text": _TEXT,
        "repeats": 1,  # minutes
    }
    python = str(Path(_PEER.value).expanduser())
    command = [python, str(_PEER_PROGRAM), json.dumps(sizes)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"nuwa-pytorch failed: {done.stderr.strip().splitlines()[-1]}")
    result = json.loads(done.stdout.strip().splitlines()[-1])
    return result["seconds"][0], result["parameters"]


if __name__ == "__main__":
    apps.run(main)
