"""Plans: of a network of a few thousand weights on four chips that are not there, and what is refused."""

import importlib.util
import math

import jax
import pytest

from configs.smoke import vqgan
from experiments.planning.chips import CHIPS
from experiments.planning.plan import choices, out_of_memory, plan_train, rank
from experiments.planning.table import describe, markdown_table
from experiments.planning.topology import load_topology
from muse_jax.system import make_task
from muse_jax.training import validate_config
from pallas_kernels import aot
from tests.pallas_kernels.cuda import needs_gpu_compiler

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


@pytest.fixture
def config():
    config = validate_config(vqgan.get_config())
    config.mesh.update(data=2, fsdp=2)
    return config


@needs_libtpu
def test_a_small_train_step_on_four_chips(config):
    plan = plan_train("smoke", config, load_topology("v5e:2x2"), lambda name: None)
    assert plan.fits and plan.chips == plan.devices == 4
    assert plan.mesh == {"data": 2, "fsdp": 2, "tensor": 1}
    shapes = jax.eval_shape(make_task(config).init, jax.random.key(0))
    assert (
        plan.parameters == sum(leaf.size for leaf in jax.tree.leaves(shapes)) and plan.frozen_parameters == 0
    )
    assert 0 < plan.flops == plan.model_flops
    # Weights, their averages and Adam's two moments in float32, in halves where fsdp divides them.
    assert 4 * 4 * plan.parameters / 2 < plan.argument_bytes < plan.needed < plan.memory
    # The gradient is summed over data, in whole or in halves.
    received = sum(each["bytes"] for each in plan.collectives.values())
    assert received > 4 * plan.parameters / 2
    assert plan.seconds == max(plan.mxu_seconds, plan.hbm_seconds, plan.ici_seconds)
    assert plan.images_per_second == pytest.approx(config.data.batch_size / plan.seconds)
    assert 0 < plan.utilisation < 1
    assert "fits" in describe(plan) and markdown_table([plan]).count("\n") == 2


@needs_libtpu
@pytest.mark.parametrize("name", ["v5e:3x5", "v5e:4", "v9:2x2", "v5p:axb", "v5e", "h100:2x2x8"])
def test_a_topology_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match=f"topology '{name}'") as caught:
        load_topology(name)
    assert "\n" not in str(caught.value)


def test_without_libtpu_a_pod_is_refused(monkeypatch):
    monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"v6e:4x8 needs a compiler .*pip install -e '.\[plan\]'"):
        load_topology("v6e:4x8")


def test_without_the_cuda_plugin_nodes_of_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="h200:3x8 needs a compiler that is not installed: .*gpu-compiler"):
        load_topology("h200:3x8")


@needs_gpu_compiler
@pytest.mark.parametrize("name, sides", [("h100:8", (1, 8)), ("a100:4x8", (4, 8))])
def test_gpus_lie_in_nodes(name, sides):
    topology = load_topology(name)
    places = [(node, place) for node in range(sides[0]) for place in range(sides[1])]
    assert topology.sides == sides
    assert [topology.coordinates(device) for device in topology.devices] == places


@needs_gpu_compiler
def test_a_small_train_step_on_two_nodes_of_two_gpus(config):
    plan = plan_train("smoke", config, load_topology("h100:2x2"), lambda name: None)
    assert plan.fits and plan.chips == plan.devices == 4
    # Two means over the batch apart, the gradient is summed over both axes: whole inside a node and between.
    received = sum(each["bytes"] for each in plan.collectives.values())
    assert received > 4 * plan.parameters / 2
    assert plan.ici_seconds > received / CHIPS["h100"].link


@needs_libtpu
def test_a_mesh_that_does_not_divide_the_topology_is_refused(config):
    config.mesh.fsdp = 3
    with pytest.raises(ValueError, match="cannot cover 4 devices"):
        plan_train("smoke", config, load_topology("v5e:2x2"), lambda name: None)


def test_every_choice_covers_the_devices_and_splits_the_batch(config):
    found = [(c.mesh.data, c.mesh.fsdp, c.mesh.tensor) for c in choices(config, 16)]
    assert all(math.prod(mesh) == 16 and config.data.batch_size % (mesh[0] * mesh[1]) == 0 for mesh in found)
    assert {(1, 4, 4), (4, 1, 4), (2, 2, 4), (1, 2, 8)} <= set(found) and len(set(found)) == len(found)


def test_the_compilers_refusal_tells_the_bytes():
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm."
    assert out_of_memory(message) == 17.5 * 2**30
    assert out_of_memory("INTERNAL: something else") is None


def test_what_fits_ranks_before_what_does_not():
    class Stub:
        def __init__(self, fits, rate, needed):
            self.fits, self.images_per_second, self.needed, self.serial_seconds = fits, rate, needed, 1.0

    slow, fast = Stub(True, 5.0, 1), Stub(True, 9.0, 2)
    large, unknown = Stub(False, math.nan, 50), Stub(False, math.nan, math.nan)
    assert sorted([unknown, large, slow, fast], key=rank) == [fast, slow, large, unknown]
