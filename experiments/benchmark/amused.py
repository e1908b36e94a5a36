"""Decoding of aMUSEd by this library and by diffusers in PyTorch, with the same random weights.

Both generate a 16x16 grid of tokens (256 pixels) in `--steps` steps with guidance 10, so the network runs on
twice the batch. diffusers runs its own loop with `UVit2DModel` and `AmusedScheduler`, this library
`masked_decode` on `UVit2D`. Since the text does not change, this library computes its keys and values and the
gains of the adaptive norms once per image, diffusers once per step. Guidance is applied before the output
matrix here and after it there; the logits are the same.

    python -m experiments.benchmark.amused                                # fp32, CPU
    python -m experiments.benchmark.amused --device=cuda --dtype=bfloat16  # diffusers under torch.compile
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments import apps
from experiments.benchmark.timing import machine, time_in_turn
from muse_jax.sampling import masked_decode
from muse_jax.systems.amused.convert import network_from_config, read_uvit
from muse_jax.systems.amused.uvit import UVit2D

_DEVICE = flags.DEFINE_enum("device", "cpu", ["cpu", "cuda"], "Device of both.")
_DTYPE = flags.DEFINE_enum(
    "dtype", "float32", ["float32", "bfloat16"], "Type of weights and activations of both."
)
_COMPILE = flags.DEFINE_bool("compile", None, "Use torch.compile; by default only on cuda.")
_BATCH = flags.DEFINE_integer("batch", 2, "Batch size.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 12, "Decoding steps.", lower_bound=1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Timed runs of each.", lower_bound=1)
_SMALL = flags.DEFINE_bool("small", False, "A tiny network, to test the script.")

_GUIDANCE = 10.0  # (1 - g) unconditional + g conditional, as in aMUSEd
_GRID = (16, 16)
_TEXT_LENGTH = 77
_MICRO = (256.0, 256.0, 0.0, 0.0, 6.0)
_SMALL_CONFIG = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "in_channels": 48,
    "block_out_channels": 48,
    "block_num_heads": 4,
}


class StateDict:
    """PyTorch state dict with the interface of a foreign checkpoint."""

    def __init__(self, state: dict[str, Any]):
        self._state = state

    def __contains__(self, name: str) -> bool:
        return name in self._state

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._state[name].shape)

    def read(self, name: str) -> np.ndarray:
        return self._state[name].float().cpu().numpy()


def import_peer() -> tuple[Any, Any]:
    """Imports PyTorch and diffusers; raises ValueError if they are not installed."""
    try:
        import diffusers
        import torch
    except ImportError as error:
        raise ValueError(
            f"This benchmark needs diffusers for PyTorch ({error}): run "
            "`pip install torch==2.13.0 diffusers==0.42.1 transformers`."
        ) from None
    return torch, diffusers


def conditions(batch: int, text_dim: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Random text states, pooled embeddings and micro-conditions, with the unconditional half first."""
    draw = np.random.default_rng(0).standard_normal
    text = draw((2 * batch, _TEXT_LENGTH, text_dim), np.float32)
    return (
        text,
        draw((2 * batch, text_dim), np.float32),
        np.tile(np.array(_MICRO, np.float32), (2 * batch, 1)),
    )


def make_peer(torch: Any, diffusers: Any, model: Any, inputs: tuple[np.ndarray, ...]) -> Callable[[int], Any]:
    """Decoding by diffusers, as a function of a seed that returns int tokens (batch, height, width)."""
    device, dtype, steps = _DEVICE.value, getattr(torch, _DTYPE.value), _STEPS.value
    text, pooled, micro = (torch.from_numpy(x).to(device, dtype) for x in inputs)
    mask_id = model.config.vocab_size - 1
    scheduler = diffusers.AmusedScheduler(mask_token_id=mask_id)
    compiled = _COMPILE.value if _COMPILE.value is not None else device == "cuda"
    forward = torch.compile(model, mode="max-autotune") if compiled else model

    @torch.no_grad()
    def decode(seed: int) -> Any:
        generator = torch.Generator(device).manual_seed(seed)
        tokens = torch.full((text.shape[0] // 2, *_GRID), mask_id, device=device)
        scheduler.set_timesteps(steps, (2, 0), device)
        for timestep in scheduler.timesteps:
            logits = forward(
                torch.cat([tokens] * 2),
                encoder_hidden_states=text,
                pooled_text_emb=pooled,
                micro_conds=micro,
            )
            unconditional, conditional = logits.chunk(2)
            guided = unconditional + _GUIDANCE * (conditional - unconditional)
            tokens = scheduler.step(guided, timestep, tokens, generator=generator).prev_sample
        if device == "cuda":
            torch.cuda.synchronize()
        return tokens

    return decode


def make_ours(network: UVit2D, params: Any, inputs: tuple[jax.Array, ...]) -> Callable[[int], jax.Array]:
    """The same decoding by this library, as a function of a seed that returns tokens (batch, n)."""
    mask_id, steps = network.vocab_size - 1, _STEPS.value

    @jax.jit
    def decode(
        params: Any, key: jax.Array, text: jax.Array, pooled: jax.Array, micro: jax.Array
    ) -> jax.Array:
        variables = {"params": params}
        conditioning = network.apply(variables, text, pooled, micro, method="condition")

        def logits_fn(tokens: jax.Array, _: jax.Array) -> jax.Array:
            both = network.apply(variables, jnp.tile(tokens, (2, 1)), conditioning, method="hidden")
            unconditional, conditional = jnp.split(both.astype(jnp.float32), 2)
            mixed = unconditional + _GUIDANCE * (conditional - unconditional)
            return network.apply(variables, mixed.astype(both.dtype), method="logits")

        start = jnp.full((text.shape[0] // 2, network.grid[0] * network.grid[1]), mask_id, jnp.int32)
        return masked_decode(logits_fn, start, key, mask_id=mask_id, num_steps=steps, choice_temperature=2.0)

    return lambda seed: jax.block_until_ready(decode(params, jax.random.key(seed), *inputs))


def largest_difference(
    torch: Any, model: Any, network: UVit2D, params: Any, inputs: tuple[np.ndarray, ...]
) -> tuple[float, float]:
    """Largest difference of the two networks' logits on the same tokens, and largest logit."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(0, network.vocab_size, (inputs[0].shape[0], _GRID[0] * _GRID[1]), np.int32)
    device, dtype = _DEVICE.value, getattr(torch, _DTYPE.value)
    text, pooled, micro = (torch.from_numpy(x).to(device, dtype) for x in inputs)
    with torch.no_grad():
        theirs = model(torch.from_numpy(tokens).long().reshape(-1, *_GRID).to(device), text, pooled, micro)
    theirs = theirs.float().cpu().numpy().reshape(*theirs.shape[:2], -1).transpose(0, 2, 1)
    ours = np.asarray(jax.jit(network.apply)({"params": params}, tokens, *inputs))
    return float(np.abs(ours - theirs).max()), float(np.abs(theirs).max())


def main() -> None:
    """Compares the logits, then times both decoders."""
    torch, diffusers = import_peer()
    if _DEVICE.value == "cuda" and not (torch.cuda.is_available() and jax.default_backend() == "gpu"):
        raise ValueError(
            "--device=cuda needs PyTorch and JAX both built for CUDA and a GPU; run with --device=cpu."
        )
    torch.manual_seed(0)
    config = {"sample_size": _GRID[0], **(_SMALL_CONFIG if _SMALL.value else {})}
    model = diffusers.UVit2DModel(**config).eval().to(_DEVICE.value, getattr(torch, _DTYPE.value))
    platform_name = {"cpu": "cpu", "cuda": "gpu"}[_DEVICE.value]
    with jax.default_device(jax.devices(platform_name)[0]):
        dtype = jnp.dtype(_DTYPE.value)
        network = network_from_config(model.config, dtype=dtype)
        params = jax.tree.map(jnp.asarray, read_uvit(StateDict(model.state_dict()), network, dtype))
        inputs = conditions(_BATCH.value, model.config.encoder_hidden_size)
        difference, largest = largest_difference(torch, model, network, params, inputs)
        print(
            f"same weights: logits differ by at most {difference:.1e}, the largest is {largest:.1f}",
            flush=True,
        )
        peer = make_peer(torch, diffusers, model, inputs)
        ours = make_ours(network, params, tuple(jnp.asarray(x) for x in inputs))
        times = time_in_turn({"diffusers": peer, "muse_jax": ours}, _REPEATS.value)
    report(times, sum(leaf.size for leaf in jax.tree.leaves(params)), torch, diffusers)


def report(times: dict[str, list[float]], num_params: int, torch: Any, diffusers: Any) -> None:
    """Prints the medians, their ratio and the versions of the software."""
    medians = {name: float(np.median(seconds)) for name, seconds in times.items()}
    print(
        f"aMUSEd, {num_params / 1e6:.0f}M parameters, {_DTYPE.value}, batch {_BATCH.value}, "
        f"{_STEPS.value} steps, guidance {_GUIDANCE:g}, {_GRID[0]}x{_GRID[1]} tokens"
    )
    for name, seconds in times.items():
        spread = f"{min(seconds):.2f} to {max(seconds):.2f}"
        print(f"  {name:<10} median {medians[name]:.2f} s of {len(seconds)} ({spread})")
    print(f"  muse_jax is {medians['diffusers'] / medians['muse_jax']:.2f}x as fast")
    where = machine({"cpu": "cpu", "cuda": "gpu"}[_DEVICE.value])
    peers = (
        f"torch {torch.__version__} ({torch.get_num_threads()} threads), diffusers {diffusers.__version__}"
    )
    print(f"{where}; {peers}")


if __name__ == "__main__":
    apps.run(main)
