"""Choice of a kernel's implementation: argument, else MUSE_JAX_KERNELS, else by platform."""

import os

import jax

VARIABLE = "MUSE_JAX_KERNELS"
IMPLEMENTATIONS = ("reference", "xla", "tpu", "gpu")


def current_platform() -> str:
    """Platform of the current mesh, or else JAX's default: "cpu", "tpu" or "gpu"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return "gpu" if platform in ("cuda", "rocm") else platform


def select(implementation: str | None) -> str:
    """Chooses one of `IMPLEMENTATIONS`.

    Args:
      implementation: a name; None for the variable MUSE_JAX_KERNELS, or else the platform's own.

    Raises:
      ValueError: if the name is unknown or the implementation does not run on this platform.
    """
    source = "implementation"
    if implementation is None:
        source, implementation = VARIABLE, os.environ.get(VARIABLE) or None
    platform = current_platform()
    if implementation is None:
        return platform if platform in IMPLEMENTATIONS else "xla"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"{source} is {implementation!r}, but must be one of {', '.join(IMPLEMENTATIONS)}.")
    if implementation in ("tpu", "gpu") and implementation != platform:
        raise ValueError(
            f"{source} is {implementation!r}, but JAX runs on {platform} here; "
            "use 'xla', or leave it out for the platform's own implementation."
        )
    return implementation
