"""FLOP counts against formulas."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import AbstractMesh, AxisType
from jax.sharding import PartitionSpec as P

from muse_jax.training.flops import count_flops, measured_matmul_peak


def test_matrix_products_count_in_a_scan_and_its_gradient():
    x, layers = jnp.ones((4, 8)), jnp.ones((5, 8, 8))

    def network(x, layers):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, layers)[0].sum()

    forward = 5 * 2 * 4 * 8 * 8
    assert count_flops(network, x, layers) == forward
    assert count_flops(jax.jit(jax.grad(network, argnums=(0, 1))), x, layers) == 3 * forward


def test_convolutions_with_stride_and_groups():
    images, kernel = jnp.ones((2, 8, 8, 4)), jnp.ones((3, 3, 2, 6))

    def convolve(images, kernel):
        return jax.lax.conv_general_dilated(
            images, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=2
        )

    assert count_flops(convolve, images, kernel) == 2 * (2 * 4 * 4 * 6) * (3 * 3 * 2)


def test_the_cheapest_branch_of_a_condition_counts():
    def either(flag, x):
        return jax.lax.cond(flag, lambda: x @ x @ x, lambda: x @ x)

    assert count_flops(either, True, jnp.ones((4, 4))) == 2 * 4**3


@pytest.mark.parametrize(
    "specs, axes",
    [
        ((P("data"), P(), P("data")), {"data", "tensor"}),
        ((P("data"), P(None, "tensor"), P("data", "tensor")), {"data", "tensor"}),
        ((P(("data", "tensor")), P(), P(("data", "tensor"))), {"data", "tensor"}),
        ((P("data"), P(), P("data")), {"data"}),  # the axis "tensor" is left to the compiler
    ],
)
def test_sharded_work_counts_as_a_whole(specs, axes):
    mesh = AbstractMesh((4, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    product = jax.shard_map(
        lambda x, y: x @ y,
        mesh=mesh,
        in_specs=specs[:2],
        out_specs=specs[2],
        axis_names=axes,
        check_vma=False,
    )
    x, y = jnp.ones((64, 32)), jnp.ones((32, 16))
    assert count_flops(product, x, y) == count_flops(lambda x, y: x @ y, x, y) == 2 * 64 * 32 * 16


def test_the_measured_peak_of_a_cpu_is_plausible():
    assert 1e6 < measured_matmul_peak(64, 1) < 1e15
