"""Small problems for the Pallas kernels, and their solutions."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from pallas_kernels.local_attention import reference
from pallas_kernels.local_attention.arg_specs import Case

# Two windows in one softmax, of which the coarse one does not divide into tiles, and masked text.
SUPERRES = Case(
    "superres", (6, 18), (3, 5), coarse_grid=(3, 6), coarse_window=(3, 3), extra=5, heads=2, dim=24
)


@st.composite
def cases(draw):
    """Draws grids of one to three axes and at most about 60 positions, with windows of every kind."""
    axes = draw(st.integers(1, 3))
    odd = st.sampled_from([1, 3, 5, 9])
    factors = [draw(st.integers(1, 3)) for _ in range(axes)]
    keys = tuple(draw(st.integers(1, max(1, [60, 8, 4][axes - 1] // factor))) for factor in factors)
    grid = tuple(count * factor for count, factor in zip(keys, factors, strict=True))
    windows = [tuple(draw(odd) for _ in grid) for _ in range(2)]
    kind = draw(st.sampled_from(["plain", "causal", "coarse keys", "two windows"]))
    return Case(
        kind,
        grid,
        windows[0],
        key_grid=keys if kind == "coarse keys" else None,
        causal=kind == "causal",
        coarse_grid=keys if kind == "two windows" else None,
        coarse_window=windows[1],
        extra=draw(st.sampled_from([0, 3])),
        heads=draw(st.integers(1, 2)),
        dim=draw(st.sampled_from([16, 24])),
    )


def arrays(case: Case, batch: int = 2, dtype=jnp.float32):
    """Random arguments for `attend`; row 0 of the batch sees one extra key, row 1 two, and so on."""
    rng = np.random.default_rng(0)

    def draw(struct):
        if struct.dtype == bool:
            return jnp.arange(struct.shape[1]) <= jnp.arange(batch)[:, None]
        return jnp.asarray(rng.standard_normal(struct.shape), struct.dtype)

    return jax.tree.map(draw, case.arguments(batch, dtype))


def output_and_grads(attend, arguments, geometry, **options):
    """Output, and gradients of a weighted sum of it with respect to all arguments but the mask."""
    *windows, extra = arguments
    mask = None if extra is None else extra[2]

    def function(query, keys, values, extra):
        whole = None if mask is None else (*extra, mask)
        return attend(query, keys, values, whole, geometry, **options)

    out, pull_back = jax.vjp(function, *windows, None if extra is None else extra[:2])
    weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).astype(out.dtype)
    return out, pull_back(weights.reshape(out.shape))


def check_against_reference(attend, case: Case, interpret: bool = True, atol: float = 1e-5) -> None:
    """Asserts that `attend`, interpreted or not, has the reference's values and gradients."""
    arguments = arrays(case)
    ours = jax.jit(lambda a: output_and_grads(attend, a, case.geometry, interpret=interpret))(arguments)
    theirs = jax.jit(lambda a: output_and_grads(reference.attend, a, case.geometry))(arguments)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=atol)


def check_bfloat16(attend, case: Case, interpret: bool = True) -> None:
    """Asserts that `attend` keeps bfloat16 and agrees with the float32 reference to its precision."""
    narrow = arrays(case, dtype=jnp.bfloat16)
    wide = jax.tree.map(lambda x: x if x.dtype == bool else x.astype(jnp.float32), narrow)
    ours = jax.jit(lambda a: output_and_grads(attend, a, case.geometry, interpret=interpret))(narrow)
    exact = jax.jit(lambda a: output_and_grads(reference.attend, a, case.geometry))(wide)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        assert a.dtype == jnp.bfloat16
        # Roundings to 8 bits of the weights, the slopes and the result, in sums of terms of about one.
        np.testing.assert_allclose(np.float32(a), b, rtol=2**-6, atol=2**-5)
