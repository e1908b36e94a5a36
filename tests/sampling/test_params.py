"""Sampling parameters: their ranges, and their way to a config and back."""

import numpy as np
import pytest

from muse_jax.sampling.params import CogLMDecoding, Decoding, LoparDecoding, TokenDecoding, check_share

NOT_STEPS = (0, -1, 1.0, True, "3", None)
NOT_WHOLE = (-1, 1.0, True, "3", None)
NOT_NUMBERS = (-0.001, float("inf"), float("nan"), True, "1", None)
NOT_SHARES = (0, -0.5, 1.001, float("nan"), True, "1", None)
OUT_OF_RANGE = {
    (Decoding, "num_steps"): NOT_STEPS,
    (Decoding, "guidance_scale"): NOT_NUMBERS,
    (Decoding, "temperature"): NOT_NUMBERS,
    (Decoding, "choice_temperature"): NOT_NUMBERS,
    (Decoding, "order"): ("raster", None),
    (TokenDecoding, "temperature"): NOT_NUMBERS,
    (TokenDecoding, "inner_temperature"): NOT_NUMBERS,
    (TokenDecoding, "top_k"): NOT_WHOLE,
    (TokenDecoding, "top_clusters"): NOT_WHOLE,
    (TokenDecoding, "top_p"): NOT_SHARES,
    (CogLMDecoding, "top_p"): NOT_SHARES,
    (CogLMDecoding, "text_weight"): NOT_NUMBERS,
    (CogLMDecoding, "infill_text_weight"): NOT_NUMBERS,
    (CogLMDecoding, "candidates"): NOT_STEPS,
    (CogLMDecoding, "keep"): NOT_STEPS,
    (LoparDecoding, "temperature"): NOT_NUMBERS,
}


@pytest.mark.parametrize("kind, name", OUT_OF_RANGE)
def test_a_value_out_of_its_range_is_refused_by_its_name(kind, name):
    for value in OUT_OF_RANGE[kind, name]:
        with pytest.raises(ValueError, match=f"^{name} must be .*, given {value!r}"):
            kind(**{name: value})


def test_every_turn_s_size_is_checked():
    with pytest.raises(ValueError, match="^top_k of each turn must be a whole number of at least 1, given 0"):
        LoparDecoding(top_k=(40, 0))


def test_more_images_than_are_drawn_cannot_be_kept():
    with pytest.raises(ValueError, match="keep is 3, but only 2 candidates"):
        CogLMDecoding(candidates=2, keep=3)


@pytest.mark.parametrize(
    "kind, given",
    [
        (Decoding, {"num_steps": 1, "guidance_scale": 0, "temperature": 0.0, "choice_temperature": 0.0}),
        (Decoding, {"num_steps": np.int64(3), "temperature": np.float32(0.5), "guidance_scale": np.int32(2)}),
        (Decoding, {"order": "halton"}),
        (TokenDecoding, {"top_k": 0, "top_clusters": np.int32(3), "top_p": 1, "inner_temperature": 0}),
        (TokenDecoding, {"top_p": np.float32(0.5)}),
        (TokenDecoding, {"top_p": np.int64(1)}),
        (CogLMDecoding, {"candidates": 2, "keep": 2, "text_weight": 0}),
        (LoparDecoding, {"top_k": (1, 1), "temperature": 0}),
    ],
)
def test_values_at_the_edge_and_numbers_of_numpy_are_taken(kind, given):
    settings = kind(**given)
    assert {name: getattr(settings, name) for name in given} == given


def test_a_share_is_named_so_by_default():
    with pytest.raises(ValueError, match="^share must be above 0 and at most 1, given 0"):
        check_share(0)


def test_what_a_call_gives_replaces_the_settings_but_for_none():
    settings = Decoding(num_steps=7, temperature=0.5)
    assert settings.but(num_steps=3, temperature=None, order="halton") == Decoding(
        num_steps=3, temperature=0.5, order="halton"
    )


@pytest.mark.parametrize("settings", [Decoding(num_steps=5), LoparDecoding(top_k=(3, 2)), CogLMDecoding()])
def test_settings_are_stored_as_a_mapping_and_read_back(settings):
    assert type(settings).from_mapping(settings.to_dict()) == settings


def test_a_section_of_a_config_has_lists_and_may_lack_keys():
    assert LoparDecoding.from_mapping({"top_k": [3, 2]}) == LoparDecoding(top_k=(3, 2))
    assert Decoding.from_mapping({"num_steps": 5}) == Decoding(num_steps=5)


def test_an_unknown_key_of_a_section_is_refused_by_its_name():
    with pytest.raises(ValueError, match="decoding has the unknown key 'steps': it may have .*'num_steps'"):
        Decoding.from_mapping({"temperature": 1.0, "steps": 3})
