import jax
import numpy as np
import pytest

from experiments.prepare_features import captions_of, image_tokens, text_states
from muse_jax.data import load_source
from muse_jax.images import to_unit_range
from muse_jax.training import validate_config
from muse_jax.training.tasks import make_task
from tests.training.tasks.conftest import pictures, tokenizer  # noqa: F401  (fixtures)
from tests.training.tasks.test_masked import superres_config


@pytest.fixture(scope="module")
def task(pictures, tokenizer):  # noqa: F811
    return make_task(validate_config(superres_config(pictures, tokenizer)))


def test_tokens_of_both_sizes_are_in_the_order_of_the_source(task):
    source = load_source(task.config.data.source, "train")
    stored = image_tokens(task, source, "train")
    assert stored["tokens"].shape == (8, 4) and stored["superres_tokens"].shape == (8, 16)
    params = task.frozen_tokenizers()["superres_tokenizer"]
    encode = jax.jit(lambda image: task.tokenizer.apply({"params": params}, image, method="encode"))
    images = np.stack([source[i]["image"] for i in range(len(source))])
    expected = encode(to_unit_range(images)).reshape(8, 16)
    np.testing.assert_array_equal(stored["superres_tokens"], expected)


def test_the_first_caption_is_the_plain_one_and_all_are_masked_alike(task):
    source = load_source(task.config.data.source, "train")
    stored = text_states(task, captions_of(source, "train", 2, 0), "train")
    assert stored["text_states"].shape == (16, 24, 384) and stored["text_mask"].shape == (16, 24)
    encoder = task.text_encoder
    ids, mask = encoder.tokenize(source[3]["captions"])
    expected = jax.jit(encoder.apply)(encoder.params, ids, mask)[0]
    np.testing.assert_array_equal(stored["text_mask"][6], mask[0])
    np.testing.assert_allclose(stored["text_states"][6][mask[0]], np.asarray(expected)[mask[0]], atol=2e-3)
