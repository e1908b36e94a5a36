"""What every launched command imports; none of it may touch a device or start a thread."""

import experiments.apps
import muse_jax.systems.cogview2
import muse_jax.systems.muse
import muse_jax.systems.vqgan

__all__ = ["experiments", "muse_jax"]
