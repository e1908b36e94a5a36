"""Sampling parameters: their ranges, and their way to a config and back."""

import jax
import numpy as np
import pytest

from muse_jax.sampling.params import LoparSampling, MaskedSampling, TokenSampling, check_fraction, static
from muse_jax.systems.cogview2.sampling_params import CogLMSampling

NOT_STEPS = (0, -1, 1.0, True, "3", None)
NOT_WHOLE = (-1, 1.0, True, "3", None)
NOT_NUMBERS = (-0.001, float("inf"), float("nan"), True, "1", None)
NOT_FRACTIONS = (0, -0.5, 1.001, float("nan"), True, "1", None)
OUT_OF_RANGE = {
    (MaskedSampling, "num_steps"): NOT_STEPS,
    (MaskedSampling, "guidance_scale"): NOT_NUMBERS,
    (MaskedSampling, "temperature"): NOT_NUMBERS,
    (MaskedSampling, "choice_temperature"): NOT_NUMBERS,
    (MaskedSampling, "order"): ("raster", None),
    (TokenSampling, "temperature"): NOT_NUMBERS,
    (TokenSampling, "inner_temperature"): NOT_NUMBERS,
    (TokenSampling, "top_k"): NOT_WHOLE,
    (TokenSampling, "top_clusters"): NOT_WHOLE,
    (TokenSampling, "top_p"): NOT_FRACTIONS,
    (CogLMSampling, "top_p"): NOT_FRACTIONS,
    (CogLMSampling, "text_weight"): NOT_NUMBERS,
    (CogLMSampling, "infill_text_weight"): NOT_NUMBERS,
    (CogLMSampling, "num_candidates"): NOT_STEPS,
    (LoparSampling, "temperature"): NOT_NUMBERS,
}


@pytest.mark.parametrize("kind, name", OUT_OF_RANGE)
def test_a_value_out_of_its_range_is_refused_by_its_name(kind, name):
    for value in OUT_OF_RANGE[kind, name]:
        with pytest.raises(ValueError, match=f"^{name} must be .*, given {value!r}"):
            kind.from_mapping({name: value})


def test_the_size_of_every_iteration_is_checked():
    with pytest.raises(ValueError, match="^top_k of each iteration must be .*, given 0"):
        LoparSampling().override(top_k=(40, 0))


@pytest.mark.parametrize(
    "kind, given",
    [
        (
            MaskedSampling,
            {"num_steps": 1, "guidance_scale": 0, "temperature": 0.0},
        ),
        (
            MaskedSampling,
            {"num_steps": np.int64(3), "guidance_scale": np.int32(2)},
        ),
        (MaskedSampling, {"order": "halton"}),
        (TokenSampling, {"top_k": 0, "top_clusters": np.int32(3), "top_p": 1, "inner_temperature": 0}),
        (TokenSampling, {"top_p": np.float32(0.5)}),
        (TokenSampling, {"top_p": np.int64(1)}),
        (CogLMSampling, {"num_candidates": 2, "text_weight": 0}),
        (LoparSampling, {"top_k": (1, 1), "temperature": 0}),
    ],
)
def test_values_at_the_edge_and_numbers_of_numpy_are_taken(kind, given):
    params = kind.from_mapping(given)
    assert {name: getattr(params, name) for name in given} == given


def test_a_fraction_is_refused_by_its_name():
    with pytest.raises(ValueError, match="^edit_ratio must be above 0 and at most 1, given 0"):
        check_fraction("edit_ratio", 0)


def test_given_values_replace_those_of_the_parameters():
    params = MaskedSampling(num_steps=7, temperature=0.5)
    expected = MaskedSampling(num_steps=3, temperature=0.5, order="halton")
    assert params.override(num_steps=3, order="halton") == expected


def test_numbers_are_traced_as_float32_and_sizes_are_static():
    leaves, structure = jax.tree.flatten(MaskedSampling(num_steps=7, temperature=1).traced())
    assert [(leaf.dtype, leaf) for leaf in leaves] == [(np.float32, value) for value in (3.0, 1.0, 4.5)]
    assert structure == jax.tree.structure(MaskedSampling(num_steps=7))
    assert structure != jax.tree.structure(MaskedSampling(num_steps=8))


def test_names_of_earlier_versions_are_read():
    given = {"candidates": 4, "keep": 2, "temperature": 0.5}
    assert CogLMSampling.from_mapping(given) == CogLMSampling(num_candidates=4, temperature=0.5)


@pytest.mark.parametrize(
    "params", [MaskedSampling(num_steps=5), LoparSampling(top_k=(3, 2)), CogLMSampling()]
)
def test_parameters_are_stored_as_a_mapping_and_read_back(params):
    assert type(params).from_mapping(params.to_dict()) == params


def test_a_section_of_a_config_has_lists_and_may_lack_keys():
    assert LoparSampling.from_mapping({"top_k": [3, 2]}) == LoparSampling(top_k=(3, 2))
    assert MaskedSampling.from_mapping({"num_steps": 5}) == MaskedSampling(num_steps=5)


def test_an_unknown_key_of_a_section_is_refused_by_its_name():
    with pytest.raises(ValueError, match="sampling has the unknown key 'steps': it may have .*'num_steps'"):
        MaskedSampling.from_mapping({"temperature": 1.0, "steps": 3})


def test_a_static_field_has_its_default_and_is_no_leaf():
    field = static(3)
    assert field.default == 3 and field.metadata["pytree_node"] is False
