"""The pipeline's eight tasks: against its parts, what stays as given, compilations, files, bad input."""

import functools
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from muse_jax import load_pipeline
from muse_jax.media.video import Video, decode_video
from muse_jax.nn.shapes import parameter_shapes
from muse_jax.systems.base import LoadedStage
from muse_jax.systems.nuwa.pipeline import NuwaPipeline
from muse_jax.systems.nuwa.ranker import RankerSampling, VideoRanker, best_clips
from muse_jax.systems.nuwa.sampling import Draw, NuwaSampling, draw_tokens
from muse_jax.systems.nuwa.transformer import NuwaTransformer
from muse_jax.text import load_text_encoder
from muse_jax.tokenizers import VQGAN
from tests.systems.conftest import save_untrained
from tests.systems.nuwa.test_tasks import make_config

ROOT = Path(__file__).parents[3]
PROMPTS = ["a heart moving left", "a dog"]
TOKENIZER = VQGAN(filters=8, multipliers=(1,), num_res_blocks=1, embed_dim=4, patch=4, codebook_size=16)
RANKER = VideoRanker(widths=(8,), depth=1, embed_dim=8)
SIZES = {"width": 16, "depth": 1, "heads": 2, "mlp_dim": 16, "text_dim": 384, "code_dim": 4}
NETWORK = NuwaTransformer(16, (3, 2, 2), condition_depth=1, **SIZES)
RNG = np.random.default_rng(0)
# Squares in pure colors, whose codes differ.
CLIPS, OTHER = (255 * RNG.integers(0, 2, (2, 2, 3, 2, 2, 3))).astype(np.uint8).repeat(4, 3).repeat(4, 4)
MASK = np.zeros((8, 8), bool)
MASK[:4] = True


def random_params(module, seed, scale=0.4):
    rng = np.random.default_rng(seed)
    shapes = parameter_shapes(module)
    return jax.tree.map(lambda leaf: rng.normal(scale=scale, size=leaf.shape).astype(np.float32), shapes)


@functools.cache
def make(network=NETWORK, ranker=None):
    params = random_params(network, 0)
    params["text_projection"]["kernel"] *= 0.05  # so that the text does not drown the sketch,
    params["decoder"]["layers"]["layer_scale"][:, 1] *= 20  # and few tokens show what both change
    stage = LoadedStage(
        network,
        params,
        NuwaSampling(guidance_scale=0.5),
        TOKENIZER,
        random_params(TOKENIZER, 1),
    )
    chooser = ranker and LoadedStage(ranker, random_params(ranker, 2), RankerSampling())
    return NuwaPipeline(load_text_encoder("minilm"), stage, chooser)


@pytest.fixture(scope="module")
def pipe():
    return make()


@pytest.fixture(scope="module")
def video(pipe):
    return pipe.generate_video(PROMPTS, seed=3)


def test_a_video_is_that_of_the_parts_put_together_by_hand(pipe, video):
    encoder, stage = pipe.text_encoder, pipe.base
    text_params, params, tokenizer_params = jax.tree.map(
        jnp.asarray, (encoder.params, stage.params, stage.tokenizer_params)
    )

    @jax.jit
    def by_hand(ids, mask):
        states = encoder.module.apply({"params": text_params}, ids, mask)
        tokens = jnp.zeros((2, 12), jnp.int32)
        text, null = (states[:2], mask[:2]), (states[2:], mask[2:])
        draw = Draw(tokens, jnp.ones((2, 12), bool), text, null)
        with jax.threefry_partitionable(True):
            sampling = NuwaSampling(order="raster", guidance_scale=0.5)
            tokens = draw_tokens(stage.network, params, draw, jax.random.key(3), sampling)
        return TOKENIZER.decode(tokenizer_params, tokens.reshape(6, 2, 2))

    pixels = np.asarray(by_hand(*encoder.tokenize([*PROMPTS, ""])))
    expected = np.round(np.clip((pixels + 1) * 127.5, 0, 255)).astype(np.uint8)
    assert video.shape == (2, 3, 8, 8, 3) and video.dtype == np.uint8
    np.testing.assert_array_equal(video, expected.reshape(video.shape))


def test_other_prompts_seeds_and_scales_compile_nothing(pipe, video, compilations):
    steps = []
    other = pipe.generate_video(
        ["a cat", "sun"], seed=4, guidance_scale=2.0, temperature=0.5, progress=steps.append
    )
    assert compilations == [] and (other != video).any()
    assert len(steps) == pipe.count_steps(frames=3) and steps[-1].masked == 0


def test_an_item_depends_on_its_prompt_and_place_only(pipe, video):
    np.testing.assert_array_equal(pipe.generate_video([PROMPTS[0], "a cat"], seed=3)[0], video[0])


def test_prediction_keeps_the_frames_it_continues(pipe, compilations):
    first = pipe.predict(CLIPS[:, :1])
    np.testing.assert_array_equal(first[:, :1], CLIPS[:, :1])
    before = len(compilations)
    second = pipe.predict(CLIPS[:, :2])
    np.testing.assert_array_equal(second[:, :2], CLIPS[:, :2])
    assert len(compilations) == before and first.shape == second.shape == (2, 3, 8, 8, 3)
    other = pipe.predict(OTHER[:, :1])
    assert (other[:, 1:] != first[:, 1:]).any()


@pytest.mark.slow
def test_completion_and_manipulation_keep_the_pixels_outside_the_mask(pipe):
    images = pipe.complete(CLIPS[:, 0], MASK)
    np.testing.assert_array_equal(images[:, ~MASK], CLIPS[:, 0][:, ~MASK])
    assert (images[:, MASK] != CLIPS[:, 0][:, MASK]).any()
    for media in (CLIPS[:, 0], CLIPS):
        edited = [pipe.manipulate(media, MASK, prompts) for prompts in (PROMPTS, PROMPTS[::-1])]
        for each in edited:
            np.testing.assert_array_equal(each[..., ~MASK, :], media[..., ~MASK, :])
        assert (edited[0] != edited[1]).any()


@pytest.mark.slow
def test_sketches_condition_images_and_videos_with_and_without_text(pipe):
    for draw, sketches, others in (
        (pipe.sketch_to_image, CLIPS[:, 0], OTHER[:, 0]),
        (pipe.sketch_to_video, CLIPS, OTHER),
    ):
        for prompts in (None, PROMPTS):  # of few tokens, a seed for which the sketches tip some
            ours, theirs = (draw(each, prompts, seed=2) for each in (sketches, others))
            assert ours.shape == sketches.shape and (ours != theirs).any()
    assert pipe.sketch_to_video(CLIPS[:, :1], frames=3).shape == CLIPS.shape  # one sketch of all frames


@pytest.mark.slow
def test_an_image_is_drawn_for_each_sample(pipe):
    images = pipe.generate_image(PROMPTS, num_samples=2)
    assert images.shape == (2, 2, 8, 8, 3) and (images[0, 0] != images[0, 1]).any()


def test_the_best_candidate_of_each_prompt_is_kept():
    pipe = make(ranker=RANKER)
    best = pipe.generate_video(PROMPTS, num_candidates=3, seed=3)
    candidates = pipe.generate_video([PROMPTS[0]] * 3 + [PROMPTS[1]] * 3, seed=3)  # rows draw by their number
    text_params, params = jax.tree.map(jnp.asarray, (pipe.text_encoder.params, pipe.ranker.params))
    ids, mask = pipe.text_encoder.tokenize(PROMPTS)
    states = jax.jit(pipe.text_encoder.module.apply)({"params": text_params}, ids, mask)
    expected = jax.jit(lambda *inputs: best_clips(RANKER, params, *inputs))(candidates, (states, mask))
    np.testing.assert_array_equal(best, expected)
    assert (best != candidates[::3]).any()


def test_tasks_without_a_text_draw_one_candidate(compilations):
    pipe = make(ranker=RANKER)
    first = pipe.predict(CLIPS[:, :1], num_candidates=3)
    before = len(compilations)
    np.testing.assert_array_equal(pipe.predict(CLIPS[:, :1]), first)
    assert len(compilations) == before


def test_a_scale_of_0_is_without_guidance(pipe, video):
    plain = pipe.generate_video(PROMPTS, seed=3, guidance_scale=0.0, negative_prompt="a cat")
    np.testing.assert_array_equal(plain, pipe.generate_video(PROMPTS, seed=3, guidance_scale=0.0))
    guided = pipe.generate_video(PROMPTS, seed=3, guidance_scale=1e-9)  # with the empty text beside it
    np.testing.assert_array_equal(plain, guided)
    assert (plain != video).any()


@pytest.mark.slow
def test_a_saved_ranker_chooses_the_same_videos(tmp_path):
    pipe = make(ranker=RANKER)
    pipe.save_pretrained(tmp_path, "float32")
    loaded = load_pipeline(tmp_path)
    assert loaded.ranker.network == RANKER
    ours, theirs = (each.generate_video(PROMPTS, seed=3, num_candidates=2) for each in (pipe, loaded))
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_a_saved_pipeline_draws_the_same_videos(pipe, video, tmp_path):
    pipe.save_pretrained(tmp_path, "float32")
    loaded = load_pipeline(tmp_path)
    assert loaded.base.network == NETWORK and loaded.fps == pipe.fps
    np.testing.assert_array_equal(loaded.generate_video(PROMPTS, seed=3), video)


@pytest.mark.slow
def test_a_run_is_opened_with_its_frame_rate(tokenizer, tmp_path):
    config = make_config(tokenizer)
    config.data.fps = 5.0
    save_untrained(config, tmp_path / "run")
    loaded = load_pipeline(tmp_path / "run")
    assert (loaded.fps, loaded.image_size, loaded.max_frames) == (5.0, (16, 16), 2)
    assert loaded.generate_image(PROMPTS).shape == (2, 16, 16, 3)


def run_command(pipe, folder, *options):
    pipe.save_pretrained(folder / "model", "float32")
    command = [sys.executable, "-m", "experiments.generate", f"--model={folder / 'model'}", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.slow
def test_the_command_writes_a_gif_of_the_video(pipe, video, tmp_path):
    prompts = [f"--prompt={prompt}" for prompt in PROMPTS]
    said = run_command(pipe, tmp_path, *prompts, "--seed=3", f"--out={tmp_path}/clip.gif")
    steps = pipe.count_steps(frames=3)
    assert f"{steps}/{steps} steps" in said
    clip = decode_video((tmp_path / "clip.gif").read_bytes())
    expected = decode_video(Video(video, pipe.fps).encode())
    np.testing.assert_array_equal(clip.frames, expected.frames)


@pytest.mark.slow
def test_the_command_continues_an_image_as_mp4(pipe, tmp_path):
    imageio = pytest.importorskip("imageio.v3")
    Image.fromarray(CLIPS[0, 0]).save(tmp_path / "first.png")
    run_command(
        pipe, tmp_path, "--task=predict", f"--image={tmp_path}/first.png", f"--out={tmp_path}/clip.mp4"
    )
    expected = Video(pipe.predict(CLIPS[:1, :1]), pipe.fps).encode(".mp4")
    ours, theirs = (
        imageio.imread(data, extension=".mp4", plugin="FFMPEG").astype(int)
        for data in ((tmp_path / "clip.mp4").read_bytes(), expected)
    )
    assert ours.shape == theirs.shape and np.abs(ours - theirs).max() <= 2


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda pipe: pipe.generate_video(PROMPTS, frames=4), "frames is 4, but .* positions for 3"),
        (lambda pipe: pipe.generate_video(PROMPTS, frames=0), "frames must be a whole number of at least 1"),
        (lambda pipe: pipe.generate_video([]), "prompts is an empty list"),
        (lambda pipe: pipe.generate_image(PROMPTS, order="masked"), "order is 'masked', but a network with"),
        (lambda pipe: pipe.generate_image(PROMPTS, num_samples=0), "num_samples must be"),
        (lambda pipe: pipe.predict(CLIPS), "videos have 3 frames and frames is 3"),
        (lambda pipe: pipe.predict(CLIPS[:, :0]), "videos must be uint8 .* and not empty"),
        (lambda pipe: pipe.predict(CLIPS[:, :1, :4]), "frames of 4x8 pixels, but this checkpoint draws 8x8"),
        (lambda pipe: pipe.predict(np.concatenate([CLIPS, CLIPS], 1)), "have 6 frames, but .* for 3: cut"),
        (lambda pipe: pipe.complete(CLIPS[:, 0], MASK[:4]), "mask must be bool of shape"),
        (lambda pipe: pipe.manipulate(CLIPS, MASK[None], PROMPTS), "mask must be bool of shape"),
        (lambda pipe: pipe.manipulate(CLIPS, MASK, PROMPTS[:1]), "prompts must be 2 strings"),
        (lambda pipe: pipe.sketch_to_video(CLIPS[:, :0]), "sketches must be uint8 .* and not empty"),
        (lambda pipe: pipe.sketch_to_image(CLIPS[:, 0, :4]), "images are of 4x8 pixels"),
        (lambda pipe: pipe.generate_video(PROMPTS, steps=3), "has no such sampling parameter"),
        (lambda pipe: pipe.generate_video(PROMPTS, top_k=-1), "top_k must be a whole number"),
        (lambda pipe: pipe.generate_video(PROMPTS, num_candidates=2), "has no ranker to choose among them"),
        (
            lambda pipe: pipe.generate_video(PROMPTS, num_candidates=0),
            "num_candidates must be a whole number",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(pipe, call, message):
    with pytest.raises(ValueError, match=message) as error:
        call(pipe)
    assert str(error.value).endswith(".") and ". " not in str(error.value).replace("...", "")


def test_a_network_without_an_encoder_of_sketches_refuses_them():
    network = NuwaTransformer(16, (3, 2, 2), **SIZES)
    with pytest.raises(ValueError, match="reads no sketches"):
        make(network).sketch_to_video(CLIPS)


def test_a_ranker_of_another_text_encoder_is_refused():
    with pytest.raises(ValueError, match="The ranker reads text states of width 8"):
        make(ranker=VideoRanker(widths=(8,), text_dim=8))


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"text_dim": 8}, "reads text states of width 8"),
        ({"vocab_size": 8}, "draws 8 codes, but"),
    ],
)
def test_parts_that_do_not_fit_are_refused(fields, message):
    network = NuwaTransformer(**{"vocab_size": 16, "grid": (3, 2, 2), **SIZES, **fields})
    with pytest.raises(ValueError, match=message):
        make(network)
