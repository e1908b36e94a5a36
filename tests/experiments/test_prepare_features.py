"""Features as the command stores them: in the source's order, in a dtype that fits."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.prepare_features import captions_of, image_tokens, store
from muse_jax.data import load_source
from muse_jax.media.image import ImageModality, to_unit_range
from muse_jax.system import make_task
from muse_jax.training import validate_config
from tests.systems.conftest import image_folder, tokenizer  # noqa: F401
from tests.systems.muse.test_tasks import base_config, superres_config
from tests.systems.probing import random_params


@pytest.fixture(scope="module")
def task(image_folder, tokenizer):  # noqa: F811
    return make_task(validate_config(superres_config(image_folder, tokenizer)))


def test_tokens_of_both_sizes_are_in_the_order_of_the_source(task):
    source = load_source(task.config.data.source, "train")
    stored = image_tokens(task, source, "train")
    assert stored["tokens"].shape == (8, 4) and stored["superres_tokens"].shape == (8, 16)
    params = task.frozen_tokenizers()["superres_tokenizer"]
    encode = jax.jit(lambda image: task.tokenizer.encode(params, image))
    images = np.stack([source[i]["image"] for i in range(len(source))])
    expected = encode(to_unit_range(images)).reshape(8, 16)
    np.testing.assert_array_equal(stored["superres_tokens"], expected)


def test_the_first_caption_is_the_plain_one_and_all_are_masked_alike(task):
    source = load_source(task.config.data.source, "train")
    stored = task.text_features(captions_of(source, "train", 2, 0))
    assert stored["text_states"].shape == (16, 24, 384) and stored["text_mask"].shape == (16, 24)
    encoder = task.text_encoder
    ids, mask = encoder.tokenize(source[3]["captions"])
    expected = jax.jit(encoder.apply)(encoder.params, ids, mask)[0]
    np.testing.assert_array_equal(stored["text_mask"][6], mask[0])
    np.testing.assert_allclose(stored["text_states"][6][mask[0]], np.asarray(expected)[mask[0]], atol=2e-3)


class PixelTask(SimpleNamespace):
    """A task whose tokens are the first row of pixels, raised by `offset`."""

    fields = ("image",)

    def modalities(self, augment):
        return {"image": ImageModality(4, augment)}

    def features(self, frozen, image):
        return {"tokens": image[:, 0, :, 0].astype(jnp.int32) + self.offset}

    def frozen_tokenizers(self):
        return {}

    def frozen_shapes(self):
        return {"tokenizers": {}}

    @property
    def tokenizers(self):
        return {"tokenizer": SimpleNamespace(module=SimpleNamespace(codebook_size=256 + self.offset))}


def pixel_task(offset):
    data = SimpleNamespace(image_size=4, augment="flip", workers=0)
    return PixelTask(offset=offset, config=SimpleNamespace(data=data, seed=0))


class Ramps:
    """Ten images whose first row of pixels rises from a number of its own."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        row = np.arange(4, dtype=np.uint8) + 10 * index
        return {"image": np.broadcast_to(row[None, :, None], (4, 4, 3))}


@pytest.mark.parametrize("offset, dtype", [(0, np.uint8), (1000, np.uint16), (70000, np.uint32)])
def test_codes_are_stored_in_the_smallest_dtype_that_holds_the_codebook(offset, dtype):
    tokens = image_tokens(pixel_task(offset), Ramps(), "train")["tokens"]
    assert tokens.dtype == dtype
    np.testing.assert_array_equal(tokens, np.arange(4) + 10 * np.arange(10)[:, None] + offset)


def test_variants_are_all_images_again_differently_augmented():
    plain = np.arange(4) + 10 * np.arange(10)[:, None]
    tokens = image_tokens(pixel_task(0), Ramps(), "train", variants=6)["tokens"].reshape(6, 10, 4)
    flipped = (tokens == plain[:, ::-1]).all(axis=2)
    assert ((tokens == plain).all(axis=2) | flipped).all()
    assert 0 < flipped.sum() < 60 and len({tuple(variant) for variant in flipped.tolist()}) > 1


def test_a_run_on_stored_ids_has_the_loss_of_one_on_images(image_folder, tokenizer, tmp_path):  # noqa: F811
    config = base_config(image_folder, tokenizer)
    config.data.text_features = "ids"
    task = make_task(validate_config(config))
    assert store(task, "train", f"{tmp_path}/train", captions=1, variants=2) == 16
    config.data.features = str(tmp_path)
    stored = make_task(validate_config(config))
    batch = next(stored.make_loader("train", 0))
    assert set(batch) == {"index", "tokens", "caption_ids", "caption_mask"}
    source = load_source(config.data.source, "train")
    records = [source[int(index) % 8] for index in batch["index"]]
    ids, mask = task.text_encoder.tokenize([record["captions"][0] for record in records])
    direct = {"image": np.stack([record["image"] for record in records])}
    direct |= {"caption_ids": ids, "caption_mask": mask}
    params, frozen, key = random_params(task.init), task.frozen(), jax.random.key(1)
    losses = [jax.jit(task.loss)(params, frozen, each, key, 0)[0] for each in (batch, direct)]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)
