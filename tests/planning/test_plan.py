"""Plans: of a network of a few thousand weights on four chips that are not there, and what is refused."""

import importlib.util
import math

import pytest

from configs.smoke import base
from muse_jax.planning import choices, describe, load_topology, markdown_table, plan_train, ranked
from muse_jax.planning.plan import out_of_memory
from muse_jax.training import validate_config
from pallas_kernels import aot

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


@pytest.fixture
def config():
    config = validate_config(base.get_config())
    config.mesh.update(data=2, fsdp=2)
    return config


@needs_libtpu
def test_a_small_train_step_on_four_chips(config):
    plan = plan_train("smoke", config, load_topology("v5e:2x2"), lambda name: None)
    assert plan.fits and plan.chips == plan.devices == 4
    assert plan.mesh == {"data": 2, "fsdp": 2, "tensor": 1}
    # Two layers of three blocks, a text projection, a tied table and the rest.
    matrices = 2 * (8 * 32**2 + 2 * 32 * 64) + 384 * 32 + 32**2
    assert matrices < plan.parameters < matrices + 40 * (config.model.vocab_size + 100)
    assert 20e6 < plan.frozen_parameters < 40e6  # MiniLM has 22.6M
    # At the least the frozen weights lie on each chip, and the step reads them.
    assert plan.argument_bytes > 4 * 20e6 and plan.hbm_bytes > 20e6
    assert plan.needed < plan.memory
    gathered = (
        plan.collectives["all-reduce"]["bytes"] + plan.collectives.get("all-gather", {"bytes": 0})["bytes"]
    )
    assert gathered > 0
    assert plan.seconds == max(plan.mxu_seconds, plan.hbm_seconds, plan.ici_seconds)
    assert plan.images_per_second == pytest.approx(config.data.batch_size / plan.seconds)
    assert 0 < plan.utilisation < 1
    assert "fits" in describe(plan) and markdown_table([plan]).count("\n") == 2


@needs_libtpu
@pytest.mark.parametrize("name", ["v5e:3x5", "v5e:4", "v9:2x2", "v5p:axb", "v5e"])
def test_a_topology_that_does_not_exist_is_refused(name):
    with pytest.raises(ValueError, match=f"topology '{name}'") as caught:
        load_topology(name)
    assert "\n" not in str(caught.value)


def test_without_libtpu_a_pod_is_refused(monkeypatch):
    monkeypatch.setattr(aot.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="v6e:4x8 needs a compiler that is not here: .*pip install libtpu"):
        load_topology("v6e:4x8")


def test_a_gpu_pod_without_gpus_is_refused():
    with pytest.raises(ValueError, match="compiles for a GPU only where there is one"):
        load_topology("h100:8")


@needs_libtpu
def test_a_mesh_that_does_not_divide_the_topology_is_refused(config):
    config.mesh.fsdp = 3
    with pytest.raises(ValueError, match="cannot cover 4 devices"):
        plan_train("smoke", config, load_topology("v5e:2x2"), lambda name: None)


def test_every_choice_covers_the_devices_and_splits_the_batch(config):
    found = [(c.mesh.data, c.mesh.fsdp, c.mesh.tensor) for c in choices(config, 16)]
    assert all(math.prod(mesh) == 16 and 8 % (mesh[0] * mesh[1]) == 0 for mesh in found)
    assert {(1, 8, 2), (8, 1, 2), (2, 2, 4), (1, 2, 8)} <= set(found) and len(set(found)) == len(found)


def test_the_compilers_refusal_tells_the_bytes():
    message = "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm."
    assert out_of_memory(message) == 17.5 * 2**30
    assert out_of_memory("INTERNAL: something else") is None


def test_what_fits_ranks_before_what_does_not():
    class Stub:
        def __init__(self, fits, rate, needed):
            self.fits, self.images_per_second, self.needed, self.serial_seconds = fits, rate, needed, 1.0

    slow, fast, large = Stub(True, 5.0, 1), Stub(True, 9.0, 2), Stub(False, math.nan, 50)
    assert ranked([large, slow, fast]) == [fast, slow, large]
