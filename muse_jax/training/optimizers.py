"""Learning-rate schedules, optimizers and exponential moving averages of weights."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

Schedule = Callable[[Any], Any]
# Biases, gains and embedding tables, which should not decay towards zero.
_NOT_DECAYED = re.compile(r"bias|scale|embed|codebook|position|norm|temperature", re.IGNORECASE)


def make_schedule(optim: Mapping[str, Any], total_steps: int) -> Schedule:
    """Learning rate as a function of the step, counted from 0.

    Linear warm-up, `lr * (step + 1) / warmup_steps`, followed by a constant rate ("constant") or a cosine
    decay to zero at `total_steps` ("cosine").
    """
    lr, warmup, decay = optim["lr"], optim["warmup_steps"], optim["decay"]

    def schedule(step: Float[Array, ""] | int) -> Float[Array, ""]:
        warm = jnp.minimum(1.0, (step + 1) / max(1, warmup))
        if decay == "constant":
            return jnp.asarray(lr * warm)
        progress = jnp.clip((step - warmup) / max(1, total_steps - warmup), 0.0, 1.0)
        return lr * warm * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))

    return schedule


def decay_mask(params: Any) -> Any:
    """Tree of bools, True where weight decay applies: not to norms, biases, embeddings and scalars."""

    def decayed(path: tuple[Any, ...], leaf: Any) -> bool:
        names = [part.key for part in path]
        in_norm = any("norm" in name.lower() for name in names)
        return leaf.ndim >= 2 and not in_norm and not _NOT_DECAYED.search(names[-1])

    return jax.tree_util.tree_map_with_path(decayed, params)


def matrix_axes(params: Any) -> Any:
    """The axes that form the rows and columns of each weight matrix, for Muon; None for other parameters.

    A kernel in scanned layers is `(layers, inputs, [parts, heads,] outputs)`: layers and parts (queries,
    keys, values) are separate matrices, heads are columns of one matrix. Any other kernel is `(..., inputs,
    outputs)`, where the window of a convolution belongs to the inputs.
    """
    dimensions = optax.contrib.MuonDimensionNumbers

    def axes(path: tuple[Any, ...], leaf: Any, matrix: bool) -> Any:
        if not matrix:
            return None
        if any(part.key == "layers" for part in path):
            return dimensions(1, (-2, -1) if leaf.ndim == 5 else (-1,)) if leaf.ndim > 2 else None
        return dimensions(tuple(range(leaf.ndim - 1)), (-1,))

    return jax.tree_util.tree_map_with_path(axes, params, decay_mask(params))


def clip_by_network_norm(max_norm: float) -> optax.GradientTransformation:
    """Clips by global norm, separately for `params["discriminator"]` and for all other parameters.

    With an R1 penalty, a discriminator's gradient is many times its generator's: clipping by a common norm
    would stop the generator.
    """
    clip = optax.clip_by_global_norm(max_norm)

    def update(grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if not isinstance(grads, Mapping) or "discriminator" not in grads:
            return clip.update(grads, state)
        rest = {name: part for name, part in grads.items() if name != "discriminator"}
        (rest, _), (discriminator, _) = (clip.update(part, state) for part in (rest, grads["discriminator"]))
        return {**rest, "discriminator": discriminator}, state

    return optax.GradientTransformation(clip.init, update)


def make_optimizer(optim: Mapping[str, Any], total_steps: int) -> optax.GradientTransformation:
    """The optimizer of `config.optim`: clipping by global norm, update, decoupled weight decay, schedule.

    The update rules by name:
      "adam": Adam (Kingma & Ba, 2014).
      "adamw": Adam with decoupled weight decay (Loshchilov & Hutter, 2017).
      "adafactor": Adafactor (Shazeer & Stern, 2018), with factored second moments, block clipping at 1 and,
        if b1 > 0, momentum.
      "muon": Muon (Jordan, 2024) with Nesterov momentum for matrices, scaled to Adam's learning rates (Liu et
        al., arXiv 2502.16982), and NAdam (Dozat, 2016) for other parameters.
    """
    parts = [clip_by_network_norm(optim["grad_clip"])] if optim["grad_clip"] else []
    if optim["name"] == "muon":
        return optax.chain(
            *parts,
            optax.contrib.muon(
                make_schedule(optim, total_steps),
                beta=0.95,
                weight_decay=optim["weight_decay"],
                adam_b1=optim["b1"],
                adam_b2=optim["b2"],
                muon_weight_dimension_numbers=matrix_axes,
                consistent_rms=0.2,
            ),
        )
    if optim["name"] == "adafactor":
        parts += [optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0)]
        parts += [optax.ema(optim["b1"], debias=False)] if optim["b1"] else []
    else:
        parts += [optax.scale_by_adam(b1=optim["b1"], b2=optim["b2"], eps=optim["eps"])]
    if optim["weight_decay"]:
        parts += [optax.add_decayed_weights(optim["weight_decay"], mask=decay_mask)]
    return optax.chain(*parts, optax.scale_by_learning_rate(make_schedule(optim, total_steps)))


def ema_decay(decay: float, step: Any) -> Any:
    """Decay with warm-up: min(decay, (1 + step) / (10 + step)), so that early averages forget the start."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def update_ema(ema: Any, params: Any, decay: Any) -> Any:
    """Updates the average: decay * ema + (1 - decay) * params for each leaf."""
    return jax.tree.map(lambda old, new: (decay * old + (1.0 - decay) * new).astype(old.dtype), ema, params)
