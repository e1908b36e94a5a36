import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.nn.heads import LinearLogits, unembed
from muse_jax.sampling import guided, guided_logits_fn, mask_free_edit, masked_decode

BATCH, N, VOCAB = 3, 4, 5
RNG = np.random.default_rng(0)
PARAMS = {"codes": jnp.asarray(RNG.normal(size=(VOCAB + 1, VOCAB)), jnp.float32)}
TEXT = RNG.normal(size=(BATCH, 2, VOCAB)).astype(np.float32)
MASK = np.array([[1, 1], [1, 0], [1, 1]], bool)
TOKENS = RNG.integers(0, VOCAB + 1, size=(BATCH, N)).astype(np.int32)


def apply(params, tokens, text, text_mask):
    """Logits from each token and the mean of the text states without padding."""
    mean = (text * text_mask[..., None]).sum(axis=1) / text_mask.sum(axis=1)[:, None]
    return params["codes"][tokens] + mean[:, None]


def test_formula():
    cond, uncond = RNG.normal(size=(2, BATCH, N, VOCAB)).astype(np.float32)
    np.testing.assert_allclose(guided(cond, uncond, 3.0), 4 * cond - 3 * uncond, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(guided(cond, uncond, 0.0), cond)
    scales = np.array([0.0, 1.0, 2.5], np.float32)
    expected = [(1 + s) * c - s * u for s, c, u in zip(scales, cond, uncond, strict=True)]
    np.testing.assert_allclose(guided(cond, uncond, scales), expected, rtol=1e-5, atol=1e-5)
    assert guided(cond.astype(jnp.bfloat16), uncond.astype(jnp.bfloat16), 2.0).dtype == jnp.float32


@pytest.mark.parametrize("fraction", [0.25, 0.5, 1.0])
def test_doubled_batch_equals_two_passes_and_grows_linearly(fraction):
    negative, negative_mask = RNG.normal(size=TEXT.shape).astype(np.float32), ~MASK | (np.arange(2) == 0)
    logits_fn = guided_logits_fn(apply, PARAMS, (TEXT, MASK), (negative, negative_mask), 3.0)
    cond, uncond = apply(PARAMS, TOKENS, TEXT, MASK), apply(PARAMS, TOKENS, negative, negative_mask)
    scale = 3.0 * fraction
    np.testing.assert_allclose(
        logits_fn(TOKENS, jnp.float32(fraction)), (1 + scale) * cond - scale * uncond, rtol=1e-4, atol=1e-5
    )


def linear(params, tokens, text, text_mask):
    """Network with a linear head, whose hidden states are the logits of `apply`."""
    return LinearLogits(apply(params, tokens, text, text_mask), params["table"], params["bias"])


def test_linear_logits_decode_like_materialized_logits():
    """Guidance on hidden states with blockwise sampling equals guidance on materialized logits."""
    rng = np.random.default_rng(1)
    params = PARAMS | {"table": rng.normal(size=(VOCAB, VOCAB)), "bias": rng.normal(size=VOCAB)}
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    cond, uncond = (TEXT, MASK), (-TEXT, MASK)
    product = guided_logits_fn(linear, params, cond, uncond, 1.5)
    made = guided_logits_fn(lambda *arguments: unembed(*linear(*arguments)), params, cond, uncond, 1.5)
    np.testing.assert_allclose(
        unembed(*product(TOKENS, jnp.float32(0.5))), made(TOKENS, jnp.float32(0.5)), rtol=1e-4, atol=1e-5
    )

    @jax.jit
    def drawn(key):
        start = jnp.full((BATCH, N), VOCAB)
        tokens = [masked_decode(fn, start, key, mask_id=VOCAB, num_steps=3) for fn in (product, made)]
        edit = {"mask_id": VOCAB, "num_steps": 3, "edit_ratio": 0.5}
        return tokens, [mask_free_edit(fn, tokens[0], key, **edit) for fn in (product, made)]

    for seed in range(3):
        for a, b in drawn(jax.random.key(seed)):
            np.testing.assert_array_equal(a, b)


def test_an_unconditional_batch_of_one_is_repeated():
    empty, empty_mask = np.zeros((1, 2, VOCAB), np.float32), np.array([[True, False]])
    logits = guided_logits_fn(apply, PARAMS, (TEXT, MASK), (empty, empty_mask), 2.0)(TOKENS, jnp.float32(1))
    expected = 3 * apply(PARAMS, TOKENS, TEXT, MASK) - 2 * PARAMS["codes"][TOKENS]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_without_guidance_there_is_one_pass():
    batches = []

    def counting(params, tokens, *cond):
        batches.append(tokens.shape[0])
        return apply(params, tokens, *cond)

    plain = guided_logits_fn(counting, PARAMS, (TEXT, MASK))(TOKENS, jnp.float32(1))
    zero = guided_logits_fn(counting, PARAMS, (TEXT, MASK), (-TEXT, MASK), 0.0)(TOKENS, jnp.float32(1))
    np.testing.assert_allclose(plain, zero, rtol=1e-6)
    assert batches == [BATCH, 2 * BATCH]
    batches.clear()
    guided_logits_fn(counting, PARAMS, (TEXT, MASK), (-TEXT, MASK), None)(TOKENS, jnp.float32(1))
    guided_logits_fn(counting, PARAMS, (TEXT, MASK), None, 3.0)(TOKENS, jnp.float32(1))
    assert batches == [BATCH, BATCH]


def test_other_scales_and_texts_need_no_recompilation():
    traces = []

    @jax.jit
    def generate(key, text, negative, scale):
        traces.append(scale)
        logits_fn = guided_logits_fn(apply, PARAMS, (text, MASK), (negative, MASK), scale)
        start = jnp.full((BATCH, N), VOCAB)
        return masked_decode(logits_fn, start, key, mask_id=VOCAB, num_steps=3)

    key = jax.random.key(0, impl="rbg")
    wanted = np.array([1, 2, 3])
    text = np.tile(np.eye(VOCAB, dtype=np.float32)[wanted][:, None], (1, 2, 1))
    strong = np.array(generate(key, text, np.zeros_like(text), 200.0))
    np.testing.assert_array_equal(strong, np.tile(wanted[:, None], (1, N)))
    away = np.array(generate(key, np.zeros_like(text), text, 200.0))
    assert (away != wanted[:, None]).all()  # a negative prompt drives its codes out
    generate(key, text, np.zeros_like(text), 0.5)
    assert len(traces) == 1


def test_mismatched_or_negative_inputs_are_refused():
    with pytest.raises(ValueError, match="does not match the conditional one"):
        guided_logits_fn(apply, PARAMS, (TEXT, MASK), (TEXT[:, :1], MASK[:, :1]), 1.0)
    with pytest.raises(ValueError, match="a batch of 3 or 1"):
        guided_logits_fn(apply, PARAMS, (TEXT, MASK), (TEXT[:2], MASK[:2]), 1.0)
    with pytest.raises(ValueError, match="guidance_scale must be 0 .* or greater, given -1"):
        guided_logits_fn(apply, PARAMS, (TEXT, MASK), (TEXT, MASK), -1)
