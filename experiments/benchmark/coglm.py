"""Token-by-token generation with CogLM, with a KV cache and without.

Without the cache the whole sequence is recomputed for each token. Both generate greedily from the same random
weights and must give the same tokens. Prompts of other lengths must not compile again.

    python -m experiments.benchmark.coglm                        # the size used for emoji
    python -m experiments.benchmark.coglm --grid=20 --batch=4    # the paper's grid
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from flax.core import meta

from experiments import apps
from experiments.benchmark.timing import machine, time_in_turn
from muse_jax.sampling.autoregressive import Sampling
from muse_jax.systems.cogview2.coglm import CogLM
from muse_jax.systems.cogview2.sampling import BoundCogLM, sample_image_tokens
from muse_jax.systems.cogview2.sequences import Vocabulary, text_to_image

_GRID = flags.DEFINE_integer("grid", 8, "Side of the image's token grid.", lower_bound=1)
_WIDTH = flags.DEFINE_integer("width", 256, "Width of the network.", lower_bound=16)
_DEPTH = flags.DEFINE_integer("layers", 6, "Depth of the network.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 8, "Batch size.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed runs of each.", lower_bound=1)

_VOCABULARY = Vocabulary(image_codes=4096, size=5099)
_TEXT = 31


def main() -> None:
    """Generates in both ways, compares the tokens and prints the times."""
    side, width = _GRID.value, _WIDTH.value
    network = CogLM(
        vocab_size=_VOCABULARY.size,
        grid=(side, side),
        text_length=_TEXT + 1,
        image_position=_TEXT + 1,
        width=width,
        depth=_DEPTH.value,
        heads=max(1, width // 64),
        mlp_dim=4 * width,
    )
    tokens = jnp.zeros((1, network.length), jnp.int32)
    params = meta.unbox(jax.jit(network.init)(jax.random.key(0), tokens, tokens))["params"]
    rng = np.random.default_rng(0)
    text = jnp.asarray(rng.integers(0, 1000, (_BATCH.value, _TEXT)), jnp.int32)
    cached, recomputed = make_cached(network), make_recomputed(network)
    runs = {"cache": cached, "recomputing": recomputed}

    lengths = rng.integers(1, _TEXT + 1, (_REPEATS.value + 1, _BATCH.value, 1))
    masks = [jnp.arange(_TEXT) < jnp.asarray(each) for each in lengths]
    generated: dict[str, list[Any]] = {name: [] for name in runs}

    def timed(name: str) -> Callable[[int], Any]:
        def run(repeat: int) -> Any:
            generated[name].append(runs[name](params, text, masks[repeat]))
            return generated[name][-1]

        return run

    times = time_in_turn({name: timed(name) for name in runs}, _REPEATS.value)
    for repeat, (one, other) in enumerate(zip(*generated.values(), strict=True)):
        print(f"run {repeat}: {float(np.mean(one == other)):.1%} of the tokens agree", flush=True)
    medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(f"CogLM, {count / 1e6:.1f}M parameters, float32, batch {_BATCH.value}, {side}x{side} tokens")
    for name, seconds in medians.items():
        print(f"  {name:<12} {_BATCH.value * side**2 / seconds:9.1f} tokens/s ({seconds:.3f} s)")
    print(f"  the cache is {medians['recomputing'] / medians['cache']:.1f}x as fast")
    print(f"  programs compiled for {_REPEATS.value + 1} sets of prompt lengths: {cached._cache_size()}")
    print(machine())


def make_cached(network: CogLM) -> Any:
    """Generation with the library's decoder."""

    @jax.jit
    def run(params, text, mask):
        key, greedy = jax.random.key(0), Sampling(0.0)
        model = BoundCogLM(network, params, _VOCABULARY)
        return sample_image_tokens(model, text, mask, key, sampling=greedy, text_weight=0.0)

    return run


def make_recomputed(network: CogLM) -> Callable[..., jax.Array]:
    """Generation that runs the whole sequence through the network for each token."""

    @jax.jit
    def run(params, text, mask):
        def step(place, image):
            sequence = text_to_image(_VOCABULARY, text, mask, image)
            variables = {"params": params}
            hidden = network.apply(variables, sequence.tokens, sequence.ranks, method="hidden")
            slot = network.text_length + place
            hidden = jax.lax.dynamic_slice_in_dim(hidden, slot, 1, axis=1)
            logits = network.apply(variables, hidden, 0, _VOCABULARY.image_codes, method="logits")
            return image.at[:, place].set(jnp.argmax(logits[:, 0], axis=-1).astype(jnp.int32))

        image = jnp.zeros((len(text), network.image_tokens), jnp.int32)
        return jax.lax.fori_loop(0, network.image_tokens, step, image)

    return run


if __name__ == "__main__":
    apps.run(main)
