import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.sampling import DecodeStep, listening, mask_free_edit, masked_decode, silent, without_reports
from muse_jax.sampling import progress as progress_module

TRACES: list = []
TOKENS = np.full((2, 16), 7)


def key():
    return jax.random.key(0, impl="rbg")


@functools.partial(jax.jit, static_argnames="num_steps")
def cascade(tokens, key, temperature, progress, num_steps=4):
    """Program of two loops: decoding, then an edit."""
    TRACES.append(num_steps)

    def logits_fn(tokens, step_fraction):
        return jnp.zeros((*tokens.shape, 7)) + step_fraction

    base = progress and progress.at("base")
    edit = progress and progress.at("edit")
    tokens = masked_decode(
        logits_fn, tokens, key, mask_id=7, num_steps=num_steps, temperature=temperature, on_step=base
    )
    return mask_free_edit(logits_fn, tokens, key, mask_id=7, num_steps=2, on_step=edit)


def test_each_listener_gets_every_step_without_recompilation():
    TRACES.clear()
    quiet = cascade(TOKENS, key(), 1.0, silent())
    # 16 cos(22.5, 45, 67.5 degrees) = 14.8, 11.3, 6.1 of each of two samples
    expected = [DecodeStep("base", t, 4, 2 * left) for t, left in [(1, 14), (2, 11), (3, 6), (4, 0)]]
    expected += [DecodeStep("edit", t, 2, 0) for t in (1, 2)]
    for temperature in (1.0, 0.5):
        heard: list = []
        with listening(heard.append) as progress:
            loud = cascade(TOKENS, key(), temperature, progress)
        assert sorted(heard) == expected
        if temperature == 1.0:
            np.testing.assert_array_equal(quiet, loud)
    with listening(None) as progress:
        cascade(TOKENS, key(), 1.0, progress)
    assert TRACES == [4] and cascade._cache_size() == 1
    assert not progress_module._listeners
    assert silent().listener == 0  # listeners are numbered from 1


def test_none_compiles_no_callback():
    def text(progress):
        return cascade.lower(TOKENS, key(), 1.0, progress).as_text()

    assert "callback" in text(silent()) and "callback" not in text(None)


def test_an_exception_in_a_listener_is_raised_at_the_end_of_the_block():
    heard = []

    def fail(step):
        heard.append(step)
        raise RuntimeError("the window was closed")

    with pytest.raises(RuntimeError, match="the window was closed"), listening(fail) as progress:
        drawn = cascade(TOKENS, key(), 1.0, progress)
    assert len(heard) == 1 and not progress_module._listeners
    np.testing.assert_array_equal(drawn, cascade(TOKENS, key(), 1.0, silent()))


def test_a_plain_function_can_listen():
    heard: list = []
    tokens = masked_decode(
        lambda tokens, _: jnp.zeros((*tokens.shape, 7)),
        TOKENS,
        key(),
        mask_id=7,
        num_steps=2,
        on_step=heard.append,
    )
    tokens.block_until_ready()
    jax.effects_barrier()
    assert sorted(heard) == [DecodeStep("", 1, 2, 22), DecodeStep("", 2, 2, 0)]


def test_a_program_traced_without_reports_has_no_host_callback():
    def trace():
        return str(jax.make_jaxpr(functools.partial(cascade.__wrapped__))(TOKENS, key(), 1.0, silent()))

    assert "callback" in trace()
    with without_reports():
        assert "callback" not in trace()
