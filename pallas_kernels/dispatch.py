"""Which form of a kernel runs: what the caller asks for, else MUSE_JAX_KERNELS, else the platform's own."""

import os

import jax

VARIABLE = "MUSE_JAX_KERNELS"
IMPLEMENTATIONS = ("reference", "xla", "tpu", "gpu")


def current_platform() -> str:
    """The platform of the mesh that is set, or else JAX's default one: "cpu", "tpu" or "gpu"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform = jax.default_backend() if device is None else device.platform
    return "gpu" if platform in ("cuda", "rocm") else platform


def select(implementation: str | None) -> str:
    """One of `IMPLEMENTATIONS`.

    Raises:
      ValueError: if the name is none of these or the form does not run on this platform.
    """
    source = "implementation"
    if implementation is None:
        source, implementation = VARIABLE, os.environ.get(VARIABLE) or None
    platform = current_platform()
    if implementation is None:
        return platform if platform in IMPLEMENTATIONS else "xla"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"{source} is {implementation!r}, but the forms of a kernel are {', '.join(IMPLEMENTATIONS)}."
        )
    if implementation in ("tpu", "gpu") and implementation != platform:
        raise ValueError(
            f"{source} is {implementation!r}, but JAX runs on {platform} here; "
            f"use 'xla', or leave it out to get the form that fits the platform."
        )
    return implementation
