"""CogView2's pipeline against its parts put together by hand; compilations; checkpoints; bad input."""

import dataclasses
import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax import CogView2Pipeline, MusePipeline
from muse_jax.sampling import Sampling, listening, step_table, tile_steps
from muse_jax.sampling.params import LoparSampling
from muse_jax.systems.base import load_pipeline
from muse_jax.systems.cogview2 import programs
from muse_jax.systems.cogview2.sampling import (
    BoundCogLM,
    caption_cross_entropy,
    sample_caption,
    sample_image_tokens,
)
from muse_jax.systems.cogview2.sequences import Vocabulary
from muse_jax.systems.cogview2.superres import join_params
from muse_jax.systems.cogview2.superres_sampling import refine_tokens, sample_fine_tokens
from tests.systems.cogview2.tiny import CODES, DIRECT, ITERATIVE, NETWORK, tiny_cogview2, whole_cogview2

PROMPTS = ["a bee", "bad"]
VOCABULARY = Vocabulary(CODES, NETWORK.vocab_size)


@pytest.fixture(scope="module")
def pipe():
    return tiny_cogview2()


@pytest.fixture(scope="module")
def generated(pipe):
    """All three candidates of each prompt."""
    return pipe.generate(PROMPTS, num_samples=3)


@functools.cache
def jitted(function, **static):
    params = jax.tree.map(jnp.asarray, tiny_cogview2().coarse.params)
    return jax.jit(functools.partial(function, BoundCogLM(NETWORK, params, VOCABULARY), **static))


def coder(pipe, method, values):
    return np.asarray(jax.jit(getattr(pipe.coarse.tokenizer, method))(pipe.coarse.tokenizer_params, values))


def decode(pipe, tokens, side=3):
    pixels = coder(pipe, "decode", np.asarray(tokens).reshape(-1, side, side))
    return np.asarray(np.round(np.clip((pixels + 1) * 127.5, 0, 255)), np.uint8)


def encode(pipe, images):
    return coder(pipe, "encode", np.float32(images) / 127.5 - 1).reshape(len(images), 9)


def drawing(pipe, text_weight):
    clusters = pipe.clusters.of_code
    sampling = Sampling(np.float32(1), clusters=clusters, num_clusters=6, top_clusters=4)
    return {"sampling": sampling, "text_weight": np.float32(text_weight)}


def assert_same_images(a, b):
    """Equal but for the rounding of a float next to a half."""
    assert a.shape == b.shape and a.dtype == b.dtype == np.uint8
    assert np.abs(a.astype(int) - b).max() <= 1


class TestGenerate:
    def test_keeps_the_best_of_what_its_parts_draw_and_score(self, pipe, generated):
        texts = [np.repeat(part, 3, axis=0) for part in pipe.text_pieces.encode(PROMPTS)]
        key = jax.random.split(jax.random.key(0))[0]
        tokens = jitted(sample_image_tokens)(*texts, key, **drawing(pipe, 0.5))
        scores = np.asarray(jitted(caption_cross_entropy)(*texts, tokens)).reshape(2, 3)
        order = scores.argsort(axis=1)
        assert len(np.unique(scores)) == 6 and order.tolist() != [[0, 1, 2]] * 2
        drawn = decode(pipe, tokens).reshape(2, 3, 12, 12, 3)
        assert_same_images(generated, np.take_along_axis(drawn, order[..., None, None, None], axis=1))

    def test_one_sample_is_the_best_and_has_no_axis_of_its_own(self, pipe, generated):
        best = pipe.generate(PROMPTS)
        assert best.shape == (2, *pipe.image_size, 3) == (2, 12, 12, 3)
        assert_same_images(best, generated[:, 0])

    def test_prompts_of_other_lengths_seeds_and_scales_compile_nothing(self, pipe, generated, compilations):
        steps = []
        other = pipe.generate(
            ["", "a deed"], num_samples=3, seed=7, temperature=1, text_weight=2, progress=steps.append
        )
        assert compilations == [] and (other != generated).mean() > 0.2
        told = [(step.stage, step.step, step.num_steps) for step in steps]
        assert told == [("coarse", t, 9) for t in range(1, 10)] and pipe.count_steps() == 9
        np.testing.assert_array_equal(pipe.generate(PROMPTS, num_samples=3), generated)

    def test_the_images_of_a_prompt_do_not_depend_on_the_other_prompts(self, pipe, generated):
        assert_same_images(pipe.generate([PROMPTS[0], "a cab"], num_samples=3)[:1], generated[:1])


class TestInfill:
    # Pixels 5..8 of 12 with 4 px a token: the mask touches the tokens of row 1 and 2, column 0.
    MASK = np.zeros((12, 12), bool)
    MASK[5:9, 1:4] = True

    def test_draws_the_touched_tokens_and_keeps_every_pixel_outside_the_mask(self, pipe, generated):
        images = generated[:, 0]
        region = np.tile(np.array([0, 0, 0, 1, 0, 0, 1, 0, 0], bool), (2, 1))
        key = jax.random.split(jax.random.key(4))[0]
        given = encode(pipe, images)
        tokens = jitted(sample_image_tokens)(
            *pipe.text_pieces.encode(PROMPTS), key, **drawing(pipe, 0.7), image=given, region=region
        )
        out = pipe.inpaint(images, self.MASK, PROMPTS, seed=4)
        np.testing.assert_array_equal(out[:, ~self.MASK], images[:, ~self.MASK])
        assert_same_images(out, np.where(self.MASK[..., None], decode(pipe, tokens), images))
        assert np.any(out != images)


class TestSuperResolution:
    @pytest.fixture(scope="class")
    def whole(self):
        return whole_cogview2()

    def by_hand(self, whole, text, images, seed):
        """Fine images of coarse ones, from the parts."""

        @jax.jit
        def fine(ids, mask, tokens, keys, weights):
            sampling = drawing(whole, 0)["sampling"].replace(top_clusters=3, inner_temperature=0.5)
            words = [ids[:, :4], mask[:, :4]]
            model = BoundCogLM(DIRECT, weights["direct"], VOCABULARY)
            drawn = sample_fine_tokens(model, *words, tokens, keys[0], sampling=sampling)
            turns = tile_steps(step_table(2), (6, 6))
            words = [ids[:, :3], mask[:, :3]]
            options = {"steps": turns, "top_k": (9, 7, 5, 3), "temperature": 1.1}
            model = BoundCogLM(ITERATIVE, weights["iterative"], VOCABULARY)
            return refine_tokens(model, *words, drawn, keys[1], **options)

        weights = {
            "direct": join_params(whole.coarse.params, whole.direct.params),
            "iterative": whole.iterative.params,
        }
        keys = jax.random.split(jax.random.split(jax.random.key(seed))[1])
        tokens = encode(whole, images)
        return decode(whole, fine(*whole.text_pieces.encode(text), tokens, keys, weights), 6)

    def test_equals_its_parts_put_together_by_hand(self, whole, generated):
        images = generated[:, 0]
        finer = whole.super_resolve(images, PROMPTS, seed=5)
        assert finer.shape == (2, *whole.image_size, 3) == (2, 24, 24, 3)
        assert_same_images(finer, self.by_hand(whole, PROMPTS, images, 5))

    @pytest.mark.slow
    def test_generation_ends_with_it(self, whole, pipe):
        steps = []
        out = whole.generate(PROMPTS[:1], num_candidates=2, seed=3, progress=steps.append)
        assert out.shape == (1, 24, 24, 3) and len(steps) == whole.count_steps() == 13
        assert [(step.stage, step.step) for step in steps[9:]] == [("iterative", m) for m in (1, 2, 3, 4)]
        again = whole.generate(["a"], num_candidates=2, seed=3)
        assert np.any(again != out)

    @pytest.mark.slow
    def test_infill_keeps_every_pixel_outside_the_mask(self, whole):
        images = np.random.default_rng(0).integers(0, 256, (1, 24, 24, 3), np.uint8)
        mask = np.zeros((24, 24), bool)
        mask[5:13, 9:20] = True
        out = whole.inpaint(images, mask, ["a"])
        np.testing.assert_array_equal(out[:, ~mask], images[:, ~mask])
        assert (out[:, mask] != images[:, mask]).mean() > 0.5

    def test_each_super_resolution_stage_has_its_own_temperature(self, monkeypatch, whole, pipe):
        asked = []
        monkeypatch.setattr(
            CogView2Pipeline, "_run", lambda self, program, *inputs, **more: asked.append(inputs)
        )
        options = {"direct_temperature": 0.25, "iterative_temperature": 0.5}
        images = np.zeros((1, *whole.image_size, 3), np.uint8)
        whole.generate(["a"], **options)
        whole.inpaint(images, np.ones(whole.image_size, bool), ["a"], **options)
        whole.super_resolve(
            images[:, : whole.coarse.image_size[0], : whole.coarse.image_size[1]], ["a"], **options
        )
        whole.generate(["a"])
        drawings = [inputs[-1] for inputs in asked]
        assert [float(drawing.direct.temperature) for drawing in drawings[:3]] == [0.25] * 3
        assert [float(drawing.iterative.temperature) for drawing in drawings[:3]] == [0.5] * 3
        assert drawings[3].direct.temperature == np.float32(whole.direct.sampling.temperature)
        assert drawings[3].iterative.temperature == np.float32(whole.iterative.sampling.temperature)
        with pytest.raises(ValueError, match="temperature must be a number of 0 or greater, given -1.0"):
            whole.generate(["a"], direct_temperature=-1.0)
        with pytest.raises(
            ValueError, match="iterative_temperature is 0.5, but this CogView2Pipeline has no such"
        ):
            pipe.generate(["a"], iterative_temperature=0.5)

    def test_infill_redraws_its_region_given_the_tokens_outside(self, monkeypatch, whole):
        """Both stages are replaced: the first draws 1 everywhere, the second says what it was given."""
        asked = {}

        def redraw(model, text, mask, fine, key, **options):
            asked.update(fine=fine, **options)
            return fine

        grid = whole.direct.network.fine_grid
        count = grid[0] * grid[1]
        monkeypatch.setattr(programs, "sample_fine_tokens", lambda *_, **__: jnp.ones((1, count), jnp.int32))
        monkeypatch.setattr(programs, "refine_tokens", redraw)
        monkeypatch.setattr(programs, "_pixels", lambda modules, params, tokens, grid: tokens)
        given = jnp.arange(count)[None] + 2
        region = jnp.asarray(np.random.default_rng(0).random((1, count)) < 0.5)
        text = programs.Text(*whole.text_pieces.encode(["a"]))
        with listening(None) as progress:
            programs._super_resolve(
                whole.modules,
                whole.params,
                text,
                whole._stage_sampling(whole.sampling(), 0.0),
                jax.random.key(0),
                progress,
                jnp.zeros((1, 9), jnp.int32),
                (given, region),
            )
        np.testing.assert_array_equal(asked["fine"], np.where(region, 1, given))
        np.testing.assert_array_equal(asked["editable"], region)

    def test_a_checkpoint_holds_of_the_direct_stage_what_coglm_lacks(self, whole, tmp_path):
        whole.save_pretrained(tmp_path, "float32")
        loaded = load_pipeline(tmp_path)
        for name in ("direct", "iterative"):
            old, new = getattr(whole, name), getattr(loaded, name)
            assert (old.network, old.sampling) == (new.network, new.sampling)
            jax.tree.map(np.testing.assert_array_equal, old.params, new.params)
        assert set(loaded.direct.params) == {"fine_position_embedding", "transformer"}
        dataclasses.replace(whole, direct=None, iterative=None).save_pretrained(tmp_path)
        assert not (tmp_path / "direct.safetensors").exists()
        assert load_pipeline(tmp_path).image_size == (12, 12)

    def test_stages_that_do_not_go_together(self, whole, pipe):
        with pytest.raises(ValueError, match="This checkpoint has no super-resolution stage"):
            pipe.super_resolve(np.zeros((1, 12, 12, 3), np.uint8))
        with pytest.raises(ValueError, match="an iterative stage without a direct one"):
            dataclasses.replace(whole, direct=None)
        other = dataclasses.replace(whole.direct, network=DIRECT.clone(grid=(2, 2)))
        with pytest.raises(ValueError, match=r"reads a grid \(2, 2\), but CogLM generates \(3, 3\)"):
            dataclasses.replace(whole, direct=other)
        other = dataclasses.replace(whole.iterative, sampling=LoparSampling(top_k=(9,) * 6))
        with pytest.raises(ValueError, match="6 iterations, but the direct one generates .* takes 4"):
            dataclasses.replace(whole, iterative=other)


class TestReading:
    def test_a_score_is_the_perplexity_of_the_prompt_given_the_image(self, pipe, generated):
        images = generated[0, :2]
        expected = jitted(caption_cross_entropy)(*pipe.text_pieces.encode(PROMPTS), encode(pipe, images))
        got = pipe.score(images, PROMPTS)
        np.testing.assert_allclose(got, np.exp(expected), rtol=1e-4)
        # An image twice as large is read as the means over its squares.
        np.testing.assert_allclose(pipe.score(images.repeat(2, 1).repeat(2, 2), PROMPTS), got, rtol=1e-4)

    def test_a_caption_is_what_coglm_draws_from_the_image(self, pipe, generated):
        images = generated[:, 0]
        draw = jitted(sample_caption)(
            encode(pipe, images), jax.random.key(0), sampling=Sampling(np.float32(0))
        )
        captions = pipe.caption(images)
        assert captions == pipe.text_pieces.decode(*map(np.asarray, draw))
        assert len(captions) == 2 and any(captions)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("saved") / "float32"
    tiny_cogview2().save_pretrained(directory, "float32")
    return directory


class TestCheckpoint:
    def test_everything_comes_back(self, pipe, generated, saved):
        names = {"config.json", "coglm.safetensors", "vqgan.safetensors", "text.model", "clusters.npz"}
        assert {path.name for path in saved.iterdir()} == names
        loaded = load_pipeline(saved)
        assert isinstance(loaded, CogView2Pipeline) and loaded.coarse.sampling == pipe.coarse.sampling
        np.testing.assert_array_equal(loaded.generate(PROMPTS, num_samples=3), generated)

    def test_stored_in_half(self, pipe, tmp_path):
        sizes = pipe.save_pretrained(tmp_path)
        assert sizes == {path.name: path.stat().st_size for path in tmp_path.iterdir()}
        loaded = CogView2Pipeline.from_pretrained(tmp_path).coarse.params["embedding"]
        np.testing.assert_array_equal(loaded, pipe.coarse.params["embedding"].astype(np.float16))

    def test_another_system_is_told(self, saved):
        with pytest.raises(ValueError, match="is of the system 'cogview2', not of 'muse': load it with"):
            MusePipeline.from_pretrained(saved)
        with pytest.raises(ValueError, match="is of the system 'muse', not of 'cogview2'"):
            CogView2Pipeline.from_pretrained("emoji")

    def test_missing(self):
        with pytest.raises(ValueError, match=r"There is no checkpoint 'emojy', .*give a packaged one"):
            CogView2Pipeline.from_pretrained("emojy")

    def test_unknown_system(self, saved, tmp_path):
        copy = shutil.copytree(saved, tmp_path / "copy")
        config = json.loads((copy / "config.json").read_text()) | {"system": "dalle"}
        (copy / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match="cannot be read: There is no system 'dalle': give one of"):
            load_pipeline(copy)

    def test_clusters_of_another_codebook(self, saved, tmp_path):
        copy = shutil.copytree(saved, tmp_path / "copy")
        stored = dict(np.load(copy / "clusters.npz"))
        np.savez(copy / "clusters.npz", **stored | {"of_code": np.roll(stored["of_code"], 1)})
        with pytest.raises(ValueError, match=r"clusters\.npz are those of another codebook"):
            load_pipeline(copy)
        (copy / "clusters.npz").unlink()
        with pytest.raises(ValueError, match=r"There are no clusters in .*clusters\.npz"):
            load_pipeline(copy)

    def test_parts_that_do_not_fit(self, pipe):
        longer = dataclasses.replace(pipe.text_pieces, max_length=9)
        with pytest.raises(ValueError, match="up to 9 pieces, but CogLM reads 5"):
            dataclasses.replace(pipe, text_pieces=longer)
        with pytest.raises(ValueError, match="top_clusters is 4, but this checkpoint has no clusters"):
            dataclasses.replace(pipe, clusters=None)
        fewer = dataclasses.replace(pipe.clusters, of_code=pipe.clusters.of_code[:-1])
        with pytest.raises(ValueError, match="clusters are of 19 codes, but the tokenizer has 20"):
            dataclasses.replace(pipe, clusters=fewer)


IMAGES = np.zeros((1, 12, 12, 3), np.uint8)


class TestBadInput:
    @pytest.fixture(autouse=True)
    def no_program(self, monkeypatch):
        """Any device work is a failure."""

        def fail(*arguments, **options):
            raise AssertionError("a program ran")

        for name in ("generate", "inpaint", "caption", "score"):
            monkeypatch.setattr(programs, name, fail)

    @pytest.mark.parametrize(
        "prompts, options, message",
        [
            ([], {}, "prompts is an empty list"),
            ("a bee", {}, "prompts must be a list of strings"),
            (["bad bad bad bad"], {}, r"The text 'bad bad bad bad' has \d+ pieces, but the network reads at"),
            (
                ["a"],
                {"num_candidates": 2, "num_samples": 3},
                "num_samples is 3, but only 2 candidates of each prompt",
            ),
            (["a"], {"num_candidates": 0}, "num_candidates must be a whole number of at least 1, given 0"),
            (["a"], {"top_k": -1}, "top_k must be a whole number of at least 0, given -1"),
            (["a"], {"top_p": 0}, "top_p must be above 0 and at most 1, given 0"),
            (["a"], {"temperature": -1}, "temperature must be a number of 0 or greater, given -1"),
            (["a"], {"seed": -1}, "seed must be a whole number from 0"),
        ],
    )
    def test_generate(self, pipe, prompts, options, message):
        with pytest.raises(ValueError, match=message) as caught:
            pipe.generate(prompts, **options)
        assert "\n" not in str(caught.value)

    def test_images_and_masks(self, pipe):
        with pytest.raises(ValueError, match=r"mask must be bool of shape .* given bool of shape \(8, 12\)"):
            pipe.inpaint(IMAGES, np.zeros((8, 12), bool), ["a"])
        with pytest.raises(ValueError, match="prompts must be 1 strings, one for each image, given 2"):
            pipe.score(IMAGES, ["a", "b"])
        with pytest.raises(
            ValueError, match="images are of 12x8 pixels, but this checkpoint generates 12x12"
        ):
            pipe.caption(IMAGES[:, :, :8])
        with pytest.raises(ValueError, match="temperature must be a number of 0 or greater"):
            pipe.caption(IMAGES, temperature=-1)
