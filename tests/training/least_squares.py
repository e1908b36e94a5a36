"""A small task for tests of the loop: recover a random projection from noisy products."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from muse_jax.system import System
from muse_jax.training import Task, default_config, validate_config

WIDTH = 8


class Loader:
    """Endless seeded batches, or `epochs` of them; the position is the number of batches drawn."""

    def __init__(self, batch_size: int, seed: int, limit: int | None = None):
        self.batch_size, self.seed, self.limit, self.position = batch_size, seed, limit, 0

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self.limit is not None and self.position >= self.limit:
            raise StopIteration
        rng = np.random.default_rng((self.seed, self.position))
        self.position += 1
        index = np.arange(self.position - 1, self.position) * self.batch_size + np.arange(self.batch_size)
        x = rng.normal(size=(self.batch_size, WIDTH)).astype(np.float32)
        return {"x": x, "index": index, "example_mask": np.ones(self.batch_size, bool)}

    def get_state(self) -> dict[str, Any]:
        return {"position": self.position, "seed": np.int64(self.seed)}

    def set_state(self, state: dict[str, Any]) -> None:
        self.position, self.seed = state["position"], state["seed"]


class Model(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
        x = nn.Dense(16, kernel_init=kernel)(x)
        kernel = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("mlp", "embed"))
        return nn.Dense(WIDTH, kernel_init=kernel)(nn.LayerNorm()(x))


class LeastSquares(Task):
    """Loss: squared distance to a frozen projection of x, with noise from the step's key."""

    def __init__(self, config: Any, train_limit: int | None = None):
        super().__init__(config)
        self.train_limit, self.model = train_limit, Model()

    def init(self, key: jax.Array) -> Any:
        return self.model.init(key, jnp.zeros((1, WIDTH)))["params"]

    def frozen(self) -> Any:
        return {"projection": jax.random.normal(jax.random.key(7), (WIDTH, WIDTH))}

    def frozen_shapes(self) -> Any:
        return jax.eval_shape(self.frozen)

    def loss(
        self, params: Any, frozen: Any, batch: Any, key: jax.Array, step: Any
    ) -> tuple[Any, dict[str, Any]]:
        target = batch["x"] @ frozen["projection"] + 0.1 * jax.random.normal(key, batch["x"].shape)
        loss = jnp.mean((self.model.apply({"params": params}, batch["x"]) - target) ** 2)
        return loss, {"rms": jnp.sqrt(loss)}

    def evaluate(self, params: Any, frozen: Any, batch: Any, keys: jax.Array) -> dict[str, Any]:
        noise = 0.1 * jax.vmap(lambda key: jax.random.normal(key, (WIDTH,)))(keys)
        error = self.model.apply({"params": params}, batch["x"]) - batch["x"] @ frozen["projection"] + noise
        return {"mse": (jnp.sum(error**2, axis=1), jnp.full(len(error), WIDTH))}

    def preview(self, params: Any, frozen: Any, batch: Any, key: jax.Array) -> dict[str, Any]:
        out = self.model.apply({"params": params}, batch["x"][:4])
        shade = jnp.clip(128 + 40 * out, 0, 255).astype(jnp.uint8)
        return {"outputs": jnp.broadcast_to(shade[:, None, :, None], (4, WIDTH, WIDTH, 3))}

    def make_loader(self, split: str, seed: int) -> Loader:
        return Loader(self.config.data.batch_size, seed, self.train_limit)

    def eval_loader(self, split: str) -> Loader:
        return Loader(self.config.data.batch_size, 0, 3)


SYSTEM = System("tests.training.least_squares", {"least_squares": LeastSquares})


def make_config(**changes: Any) -> Any:
    """A short run; `changes` are dotted keys with __ for the dot."""
    config = default_config(SYSTEM.name, "least_squares")
    config.update(
        {
            "total_steps": 6,
            "log_every": 2,
            "eval_every": 3,
            "preview_every": 6,
            "checkpoint_every": 2,
        }
    )
    config.data.batch_size = 8
    config.optim.lr = 1e-2
    for name, value in changes.items():
        config.update_from_flattened_dict({name.replace("__", "."): value})
    return validate_config(config)
