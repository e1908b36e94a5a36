"""LoPAR compared with token-by-token generation of the same fine grid with a KV cache: time and loss.

Both networks have the same width, depth and table, and sample with top-k 40. LoPAR redraws the tokens that
the step table assigns to its iterations; the other network generates every token of the grid after its text.

    python -m experiments.benchmark.lopar --grid=60                       # random weights, time only
    python -m experiments.benchmark.lopar --iterative=runs/coglm_iterative --autoregressive=runs/coglm_fine

With two runs the loss on real images of `--split` is measured too: the mean of -log p over the redrawn
tokens, for LoPAR conditioned on earlier iterations, for token-by-token generation on all preceding tokens in
raster order. The network that generates the fine grid token by token is trained by

    python -m experiments.train --config=configs/emoji/coglm_fine.py --workdir=runs/coglm_fine
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
from muse_jax.data import load_source
from muse_jax.sampling import Sampling, step_table, tile_steps
from muse_jax.systems.cogview2.coglm import CogLM
from muse_jax.systems.cogview2.sampling import BoundCogLM, sample_image_tokens
from muse_jax.systems.cogview2.sequences import Vocabulary, text_to_image
from muse_jax.systems.cogview2.superres import IterativeSuperRes
from muse_jax.systems.cogview2.superres_sampling import refine_tokens
from muse_jax.training import load_config, restore_params
from muse_jax.training.task import build

_ITERATIVE = flags.DEFINE_string(
    "iterative", "", "Workdir of an iterative_superres run; by default random weights."
)
_AUTOREGRESSIVE = flags.DEFINE_string("autoregressive", "", "Workdir of a coglm run over the same fine grid.")
_GRID = flags.DEFINE_integer("grid", 24, "Side of the fine grid of random networks.", lower_bound=6)
_WIDTH = flags.DEFINE_integer("width", 256, "Width of random networks.", lower_bound=16)
_DEPTH = flags.DEFINE_integer("layers", 6, "Depth of random networks.", lower_bound=1)
_BATCH = flags.DEFINE_integer("batch", 4, "Batch size.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed runs of each.", lower_bound=1)
_SPLIT = flags.DEFINE_string("split", "heldout_pairs", "Split for the loss.")
_IMAGES = flags.DEFINE_integer("images", 64, "Number of images for the loss.", lower_bound=1)

_CODES = 4096  # of random networks, with 1,000 text pieces and the special tokens
_TOP_K = 40


def main() -> None:
    """Makes both networks, times them, and compares their losses."""
    if bool(_ITERATIVE.value) != bool(_AUTOREGRESSIVE.value):
        raise ValueError("Give both --iterative and --autoregressive, or neither for random weights.")
    trained = bool(_ITERATIVE.value)
    networks = trained_networks() if trained else random_networks()
    (iterative, _), (autoregressive, _) = networks
    if iterative.grid != autoregressive.grid:
        raise ValueError(
            f"The iterative network has the grid {iterative.grid}, but the other {autoregressive.grid}: "
            "give runs over one grid."
        )
    codes = load_config(_ITERATIVE.value).data if trained else None
    vocabulary = Vocabulary(_CODES, iterative.vocab_size)
    report_time(networks, vocabulary)
    if codes is not None:
        report_loss(networks, vocabulary, f"{codes.features}/{_SPLIT.value}")
    print(machine())


def trained_networks() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Networks and averaged weights of the two runs."""

    def load(kind: type, workdir: str) -> tuple[Any, Any]:
        return build(kind, "model", load_config(workdir).model), jax.device_put(restore_params(workdir))

    return load(IterativeSuperRes, _ITERATIVE.value), load(CogLM, _AUTOREGRESSIVE.value)


def random_networks() -> tuple[tuple[Any, Any], tuple[Any, Any]]:
    """Networks of the given sizes with random weights."""
    sizes: dict[str, Any] = {
        "vocab_size": _CODES + 1003,
        "grid": (_GRID.value, _GRID.value),
        "image_position": 32,
        "width": _WIDTH.value,
        "depth": _DEPTH.value,
        "heads": max(1, _WIDTH.value // 64),
        "mlp_dim": 4 * _WIDTH.value,
    }
    iterative, autoregressive = IterativeSuperRes(**sizes, text_length=31), CogLM(**sizes, text_length=32)
    text, tokens = jnp.zeros((1, 31), jnp.int32), jnp.zeros((1, autoregressive.length), jnp.int32)
    image = jnp.zeros((1, iterative.image_tokens), jnp.int32)
    init = lambda network, *inputs: meta.unbox(jax.jit(network.init)(jax.random.key(0), *inputs))["params"]  # noqa: E731
    return (iterative, init(iterative, image, text, text == 0)), (
        autoregressive,
        init(autoregressive, tokens, tokens),
    )


def report_time(networks: Any, vocabulary: Vocabulary) -> None:
    """Prints the seconds of both for one batch and their ratio."""
    (iterative, fine_params), (autoregressive, params) = networks
    steps = tile_steps(step_table(3), iterative.grid)
    rng = np.random.default_rng(0)
    pieces = vocabulary.text_pieces
    text = jnp.asarray(rng.integers(0, pieces, (_BATCH.value, iterative.text_length)), jnp.int32)
    start = jnp.asarray(rng.integers(0, vocabulary.image_codes, (_BATCH.value, steps.size)), jnp.int32)

    @jax.jit
    def lopar(params, text, key):
        model = BoundCogLM(iterative, params, vocabulary)
        return refine_tokens(model, text, text >= 0, start, key, steps=steps, temperature=1.0)

    @jax.jit
    def by_token(params, text, key):
        text = text[:, : autoregressive.text_pieces]
        sampling = Sampling(1.0, top_k=_TOP_K)
        model = BoundCogLM(autoregressive, params, vocabulary)
        return sample_image_tokens(model, text, text >= 0, key, sampling=sampling, text_weight=0.0)

    runs = {"LoPAR": (lopar, fine_params), "token by token": (by_token, params)}

    def timed(run: Any, weights: Any) -> Callable[[int], Any]:
        return lambda repeat: run(weights, text, jax.random.key(repeat))

    times = time_in_turn({name: timed(*parts) for name, parts in runs.items()}, _REPEATS.value)
    medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
    side = iterative.grid[0]
    sizes = f"batch {_BATCH.value}, width {iterative.width}, {iterative.depth} layers"
    print(f"{side}x{side} tokens, {sizes}, float32")
    print(f"  LoPAR           {medians['LoPAR']:8.3f} s, {int(steps.max())} passes")
    print(f"  token by token  {medians['token by token']:8.3f} s, {steps.size} steps with a KV cache")
    print(f"  LoPAR is {medians['token by token'] / medians['LoPAR']:.1f}x as fast", flush=True)


def report_loss(networks: Any, vocabulary: Vocabulary, features: str) -> None:
    """Prints the mean loss of both over the tokens that LoPAR redraws."""
    (iterative, fine_params), (autoregressive, params) = networks
    steps = tile_steps(step_table(3), iterative.grid)
    source = load_source(f"precomputed:{features.rpartition('/')[0]}", features.rpartition("/")[2])

    @jax.jit
    def losses(fine, text, mask):
        sequence = text_to_image(vocabulary, text[:, : autoregressive.text_pieces], mask, fine)
        variables = {"params": params}
        hidden = autoregressive.apply(variables, sequence.tokens, sequence.ranks, method="hidden")
        first = slice(autoregressive.text_length, -1)
        by_token = autoregressive.apply(
            variables, hidden[:, first], sequence.labels[:, first], method="cross_entropy"
        )

        def iteration(total, m):
            given = jnp.where(jnp.asarray(steps) >= m, vocabulary.start_of_image, fine)
            words = vocabulary.words(text, mask)
            hidden = iterative.apply({"params": fine_params}, given, words, mask, method="hidden")
            loss = iterative.apply({"params": fine_params}, hidden, fine, method="cross_entropy")
            return total + jnp.where(jnp.asarray(steps) == m, loss, 0.0), None

        redrawn, _ = jax.lax.scan(iteration, jnp.zeros_like(by_token), jnp.arange(1, steps.max() + 1))
        counted = jnp.asarray(steps) >= 1
        return jnp.mean(redrawn, where=counted), jnp.mean(by_token, where=counted), jnp.mean(by_token)

    sums, batches = np.zeros(3), 0
    for begin in range(0, min(_IMAGES.value, len(source)) - _BATCH.value + 1, _BATCH.value):
        rows = [source[index] for index in range(begin, begin + _BATCH.value)]
        fine = jnp.asarray(np.stack([row["superres_tokens"] for row in rows]), jnp.int32)
        text = jnp.asarray(np.stack([row["caption_ids"][0] for row in rows]))
        mask = jnp.asarray(np.stack([row["caption_mask"][0] for row in rows]))
        sums += np.asarray(losses(fine, text, mask))
        batches += 1
    lopar, by_token, every = sums / batches
    share = float(np.mean(steps >= 1))
    print(f"loss on {batches * _BATCH.value} images of {features}, redrawn tokens ({share:.0%}):")
    print(f"  LoPAR           {lopar:.3f} nats a token")
    print(f"  token by token  {by_token:.3f} nats a token ({every:.3f} over all tokens)", flush=True)


if __name__ == "__main__":
    apps.run(main)
