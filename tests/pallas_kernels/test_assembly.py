import jax
import jax.numpy as jnp
import pytest

from pallas_kernels.assembly import Kernel, assemble
from pallas_kernels.gpu_targets import GPUS
from pallas_kernels.local_attention import gpu
from pallas_kernels.local_attention.arg_specs import Case
from tests.pallas_kernels.cuda import needs_gpu_compiler


def _kernel(threads=128, registers=32, shared=0):
    return Kernel("kernel", 1, threads, registers, 0, shared, {})


# By hand: 65,536 registers, 64 warps and 32 programs a core; an H100's has 228 KiB of shared memory.
@pytest.mark.parametrize(
    "kernel, occupancy",
    [
        (_kernel(), 1.0),
        (_kernel(threads=32), 0.5),  # 32 programs of one warp
        (_kernel(registers=128), 16 / 64),
        (_kernel(registers=129), 12 / 64),  # counts as 136
        (_kernel(threads=256, registers=255), 8 / 64),
        (_kernel(shared=56 * 1024), 16 / 64),  # 57 KiB with what CUDA takes, four of which fit
    ],
)
def test_the_scarcest_resource_bounds_the_warps(kernel, occupancy):
    assert kernel.occupancy(GPUS["h100"]) == occupancy


@needs_gpu_compiler
@pytest.mark.parametrize("kind, product", [("h100", "wgmma"), ("a100", "mma")])
def test_local_attention_multiplies_on_tensor_cores_without_spills(kind, product):
    case = Case("small", (16, 16), (3, 3), extra=5, heads=2)

    def gradients(query, keys, values, extra):
        out, pull_back = jax.vjp(lambda q: gpu.attend(q, keys, values, extra, case.geometry), query)
        return pull_back(out)

    kernels = assemble(gradients, *case.arguments(1, jnp.bfloat16), kind=kind)
    # What has no part in the result is not compiled: the gradients of keys.
    assert [kernel.name for kernel in kernels] == ["local_attention", "query_gradient"]
    for kernel in kernels:
        assert kernel.programs == 4 * 2 and kernel.threads == 128
        assert kernel.spilled == 0 and list(kernel.tensor) == [product]
