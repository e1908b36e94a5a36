"""What every launched command imports; none of it may touch a device or start a thread."""

import experiments.apps
import muse_jax.pipelines.runs
import muse_jax.training.tasks

__all__ = ["experiments", "muse_jax"]
