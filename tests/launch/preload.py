"""What every launched command imports; none of it may touch a device or start a thread."""

import experiments.apps
import muse_jax.systems.registry
import muse_jax.systems.runs

__all__ = ["experiments", "muse_jax"]
