"""What makes a paper-size config small leaves its code path alone."""

import pytest

from muse_jax.training import validate_config
from tests.launch import shrink


@pytest.mark.parametrize("name", shrink.config_names())
def test_only_sizes_shrink(name):
    given, small = validate_config(shrink.load(name)), shrink.small_config(name)
    for key in shrink.sizes(name):
        section, _, field = key.rpartition(".")
        before, after = (config[section][field] if section else config[field] for config in (given, small))
        assert type(after) is type(before) and not isinstance(before, bool | str | float), key
        assert bool(after) == bool(before), key
