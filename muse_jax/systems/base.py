"""What pipelines share: weights and batches laid out over a mesh, and the context that programs run in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import jax
from jax.sharding import Mesh

from muse_jax.checkpointing.pretrained import boxed_shapes
from muse_jax.sharding.partitioning import on_mesh, one_device_mesh, put_rows, put_tree, tree_shardings


@dataclass(frozen=True, eq=False)
class Pipeline:
    """A pipeline on the devices of `mesh` (`muse_jax.sharding.partitioning.make_mesh`); None: on one device.

    Weights lie over the mesh by the rules that training follows, and batches are split over its data and fsdp
    axes where they divide evenly. The samples do not depend on the mesh. Where it spans several processes,
    each of them makes the same calls and gets the whole result.
    """

    mesh: Mesh | None = field(default=None, kw_only=True)

    @cached_property
    def _mesh(self) -> Mesh:
        return one_device_mesh() if self.mesh is None else self.mesh

    def _place(self, module: Any, params: Any, part: Callable[[Any], Any] = lambda tree: tree) -> Any:
        """The weights of a module on the mesh; `part` picks those that `params` holds of all."""
        return put_tree(params, tree_shardings(part(boxed_shapes(module)), self._mesh))

    def _rows(self, batch: Any) -> Any:
        """Arrays whose leading axis is the batch, on the mesh."""
        return put_rows(batch, self._mesh)

    @contextmanager
    def _context(self) -> Iterator[None]:
        # Under this flag, which is JAX's default, a sample's draws do not depend on the batch's size.
        with on_mesh(self._mesh), jax.threefry_partitionable(True):
            yield
