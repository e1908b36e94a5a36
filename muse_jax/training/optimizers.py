"""Learning-rate schedules, optimizers and the exponential moving average of the weights."""

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

Schedule = Callable[[Any], Any]
# Parameters that are shifts, gains or tables of vectors, which decay would pull towards zero for no gain.
_NOT_DECAYED = re.compile(r"bias|scale|embed|codebook|position|norm|temperature", re.IGNORECASE)


def make_schedule(optim: Mapping[str, Any], total_steps: int) -> Schedule:
    """The learning rate at each step, counted from 0.

    It grows linearly, `lr * (step + 1) / warmup_steps`, and then stays ("constant") or falls along half a
    cosine to zero at `total_steps` ("cosine").
    """
    lr, warmup, decay = optim["lr"], optim["warmup_steps"], optim["decay"]

    def schedule(step: Float[Array, ""] | int) -> Float[Array, ""]:
        grown = jnp.minimum(1.0, (step + 1) / max(1, warmup))
        if decay == "constant":
            return jnp.asarray(lr * grown)
        progress = jnp.clip((step - warmup) / max(1, total_steps - warmup), 0.0, 1.0)
        return lr * grown * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))

    return schedule


def decay_mask(params: Any) -> Any:
    """A tree of bools, True where weight decay applies: not on norms, biases, embeddings and scalars."""

    def decayed(path: tuple[Any, ...], leaf: Any) -> bool:
        names = [str(getattr(part, "key", getattr(part, "name", part))) for part in path]
        in_norm = any("norm" in name.lower() for name in names)
        return leaf.ndim >= 2 and not in_norm and not _NOT_DECAYED.search(names[-1])

    return jax.tree_util.tree_map_with_path(decayed, params)


def matrices(params: Any) -> Any:
    """Which axes of each weight are a matrix's rows and columns (for Muon), None for what is no matrix.

    In scanned layers a kernel is `(layers, inputs, [parts, heads,] outputs)`: layers and parts (queries,
    keys, values) are matrices apart, heads are columns side by side. Any other is `(..., inputs, outputs)`,
    the window of a convolution counting as inputs.
    """
    dimensions = optax.contrib.MuonDimensionNumbers

    def axes(path: tuple[Any, ...], leaf: Any, matrix: bool) -> Any:
        if not matrix:
            return None
        if any(getattr(part, "key", None) == "layers" for part in path):
            return dimensions(1, (-2, -1) if leaf.ndim == 5 else (-1,)) if leaf.ndim > 2 else None
        return dimensions(tuple(range(leaf.ndim - 1)), (-1,))

    return jax.tree_util.tree_map_with_path(axes, params, decay_mask(params))


def clip_networks_apart(max_norm: float) -> optax.GradientTransformation:
    """Clips gradients by their global norm, those of `params["discriminator"]` apart from all others.

    A discriminator's gradient with R1 is many times its generator's: one norm of both would stop the
    generator.
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
    """The optimizer of `config.optim`: clip by global norm, update rule, decoupled weight decay, schedule.

    "adam" and "adamw" are Kingma & Ba's, the latter with Loshchilov & Hutter's decay; "adafactor" is
    Shazeer & Stern's with factored second moments, block clipping at 1 and, if b1 > 0, momentum; "muon" is
    Jordan's with Nesterov momentum on matrices, scaled so that Adam's learning rates fit (Liu et al.,
    2502.16982), and Dozat's NAdam on the rest.
    """
    parts = [clip_networks_apart(optim["grad_clip"])] if optim["grad_clip"] else []
    if optim["name"] == "muon":
        return optax.chain(
            *parts,
            optax.contrib.muon(
                make_schedule(optim, total_steps),
                beta=0.95,
                weight_decay=optim["weight_decay"],
                adam_b1=optim["b1"],
                adam_b2=optim["b2"],
                muon_weight_dimension_numbers=matrices,
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
    """min(decay, (1 + step) / (10 + step)), step from 0, so that early averages forget their start."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))


def update_ema(ema: Any, params: Any, decay: Any) -> Any:
    """decay * ema + (1 - decay) * params, leaf by leaf."""
    return jax.tree.map(lambda old, new: (decay * old + (1.0 - decay) * new).astype(old.dtype), ema, params)
