"""aMUSEd against diffusers' pipelines with the same random weights and the same noise.

Skipped where PyTorch or diffusers is missing. The noise is made here, and put in the place of PyTorch's.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.interop.clip import read_clip_tokenizer
from muse_jax.media.image import to_unit_range
from muse_jax.systems.amused import programs
from muse_jax.systems.amused.convert import convert_amused
from muse_jax.systems.amused.sampling import mask_ratios
from pallas_kernels.masked_sampling.gumbel import gumbel, seed_words
from tests.systems.amused.tiny import write_diffusers, write_words

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

SEED, PROMPTS = 3, ["a red car", "blue"]
SMALL = {"depth": 2, "codes": 64, "levels": 3, "grid": 8, "resample": False}
# The published structure and grids, with small widths.
PUBLISHED = {
    256: {"depth": 22, "codes": 8192, "levels": 5, "grid": 16, "resample": False},
    512: {"depth": 22, "codes": 8192, "levels": 5, "grid": 32, "resample": True},
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(SMALL, id="small"),
        pytest.param(SMALL | {"resample": True}, id="small, resampled"),
        pytest.param(PUBLISHED[256], id="256", marks=pytest.mark.slow),
        pytest.param(PUBLISHED[512], id="512", marks=pytest.mark.slow),
    ],
)
def both(request, tmp_path_factory):
    """Our pipeline and diffusers', with the same weights."""
    folder, theirs = write_diffusers(tmp_path_factory.mktemp("amused"), **request.param)
    return convert_amused(folder), theirs


def same_noise(monkeypatch, batch, tokens, codes, num_steps, first_step=0):
    """Puts the noise of our sampler into PyTorch's draws, step by step; a list that grows with them."""
    from diffusers.schedulers import scheduling_amused

    key, steps = jax.random.key(SEED), []

    def multinomial(probabilities, count, generator=None):
        steps.append(first_step + len(steps))
        sample_key, _ = jax.random.split(jax.random.fold_in(key, steps[-1]))
        noise = np.array(gumbel(seed_words(sample_key), batch * tokens, codes))
        return (probabilities.log() + torch.from_numpy(noise)).argmax(-1, keepdim=True)

    def choice_noise(probabilities, generator=None):
        _, choice_key = jax.random.split(jax.random.fold_in(key, steps[-1]))
        return torch.from_numpy(np.array(jax.random.gumbel(choice_key, (batch, tokens))))

    def start_noise(shape, **_):
        drawn = jax.random.uniform(jax.random.fold_in(key, num_steps), (batch, tokens))
        return torch.from_numpy(np.array(drawn)).reshape(shape)

    monkeypatch.setattr(torch, "multinomial", multinomial)
    monkeypatch.setattr(scheduling_amused, "gumbel_noise", choice_noise)
    monkeypatch.setattr(scheduling_amused.torch, "rand", start_noise)
    return steps


def tokens_of(program, ours, *inputs, **options):
    request = ours._request(PROMPTS, None, {})
    run = jax.jit(partial(program, ours.modules, **options))
    return np.asarray(run(request, *inputs, seed=np.uint32(SEED)))


def random_images(ours):
    """Random colors in squares of 8 pixels, with some noise."""
    rng, size = np.random.default_rng(1), ours.image_size
    colors = rng.integers(0, 256, (2, size[0] // 8 + 1, size[1] // 8 + 1, 3))
    images = np.repeat(np.repeat(colors, 8, 1), 8, 2)[:, : size[0], : size[1]]
    return np.clip(images + rng.integers(-9, 10, images.shape), 0, 255).astype(np.uint8)


def as_torch(images):
    return torch.from_numpy(images.astype(np.float32) / 255).permute(0, 3, 1, 2)


def test_texts_equal_transformers(both):
    ours, theirs = both
    ids, mask = ours.prompt_encoder.tokenize([*PROMPTS, ""])
    inputs = theirs.tokenizer(
        [*PROMPTS, ""], return_tensors="pt", padding="max_length", truncation=True, max_length=77
    ).input_ids
    np.testing.assert_array_equal(ids, inputs)
    with torch.no_grad():
        outputs = theirs.text_encoder(inputs, output_hidden_states=True)
    encoder = ours.prompt_encoder
    states, pooled = programs.encode_prompts(encoder.module, encoder.params, ids, mask)
    report("CLIP's last states but one", states, outputs.hidden_states[-2].numpy())
    report("CLIP's pooled embedding", pooled, outputs.text_embeds.numpy())


def test_logits_equal(both):
    ours, theirs = both
    network, rng = ours.transformer.network, np.random.default_rng(0)
    tokens = rng.integers(0, network.vocab_size, (2, network.num_tokens))
    text = rng.standard_normal((2, 7, network.text_dim), np.float32)
    pooled = rng.standard_normal((2, network.pooled_dim), np.float32)
    micro = rng.uniform(0, 512, (2, 5)).astype(np.float32)
    with torch.no_grad():
        images = torch.from_numpy(tokens).reshape(2, *network.grid)
        logits = theirs.transformer(images, *map(torch.from_numpy, (text, pooled, micro))).numpy()
    params = {"params": ours.params["transformer"]}
    found = jax.jit(network.apply)(params, tokens.astype(np.int32), text, pooled, micro)
    report("UVit2D logits", found, logits.reshape(2, network.codebook_size, -1).transpose(0, 2, 1))


def test_indices_and_pixels_equal(both):
    ours, theirs = both
    images, tokenizer = random_images(ours), ours.transformer.tokenizer
    with torch.no_grad():
        latents = theirs.vqvae.encode(as_torch(images)).latents
        indices = theirs.vqvae.quantize(latents)[2][2].reshape(2, *ours.transformer.network.grid)
        shape = (*indices.shape, latents.shape[1])
        pixels = theirs.vqvae.decode(indices, force_not_quantize=True, shape=shape).sample
    params = ours.params["transformer_tokenizer"]
    found = np.asarray(jax.jit(tokenizer.encode)(params, to_unit_range(images)))
    vectors = latents.permute(0, 2, 3, 1).double().numpy()
    codebook = theirs.vqvae.quantize.embedding.weight.detach().double().numpy()
    differ = found != indices.numpy()
    # Another code is right only where two are equally near: PyTorch rounds its distances, and so do we.
    ours_far, theirs_far = (np.linalg.norm(vectors - codebook[ids], axis=-1) for ids in (found, indices))
    print(f"VQModel indices: {differ.sum()} of {differ.size} differ, by {np.ptp(ours_far - theirs_far):.1e}")
    assert np.abs(ours_far - theirs_far).max() < 1e-5 and differ.mean() < 1e-3
    assert len(np.unique(found)) > 8
    decoded = jax.jit(tokenizer.decode)(params, indices.numpy())
    report("VQModel pixels", (decoded + 1) / 2, pixels.permute(0, 2, 3, 1).numpy())


def test_whole_generation_draws_the_same_tokens(both, monkeypatch):
    ours, theirs = both
    network = ours.transformer.network
    steps = same_noise(monkeypatch, 2, network.num_tokens, network.codebook_size, 12)
    expected = theirs(PROMPTS, output_type="latent").images.reshape(2, -1).numpy()
    assert len(steps) == 12
    found = tokens_of(programs.generate_tokens, ours)
    print(f"generation of {ours.image_size}: {np.mean(found != expected):.2%} of tokens differ")
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(expected)) > 16


def test_whole_generation_gives_the_same_images(both, monkeypatch):
    ours, theirs = both
    network = ours.transformer.network
    same_noise(monkeypatch, 2, network.num_tokens, network.codebook_size, 12)
    expected = np.round(theirs(PROMPTS, output_type="np").images * 255)
    assert np.abs(ours.generate(PROMPTS, seed=SEED) - expected).max() <= 1


def test_image_to_image_draws_the_same_tokens(both, monkeypatch):
    ours, theirs = both
    network, images = ours.transformer.network, random_images(ours)
    same_noise(monkeypatch, 2, network.num_tokens, network.codebook_size, 12, first_step=6)
    pipeline = diffusers.AmusedImg2ImgPipeline(**theirs.components)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(PROMPTS, as_torch(images), strength=0.5, output_type="latent").images
    found = tokens_of(programs.image_to_image_tokens, ours, images, first_step=6)
    np.testing.assert_array_equal(found, expected.reshape(2, -1))


def test_inpainting_draws_the_same_tokens(both, monkeypatch):
    ours, theirs = both
    network, images = ours.transformer.network, random_images(ours)
    same_noise(monkeypatch, 2, network.num_tokens, network.codebook_size, 12)
    components = dict(theirs.components)
    components["scheduler"] = diffusers.AmusedScheduler(mask_token_id=network.mask_id)
    pipeline = diffusers.AmusedInpaintPipeline(**components)
    pipeline.set_progress_bar_config(disable=True)
    size = ours.transformer.tokenizer.downsampling
    mask = np.zeros((2, *ours.image_size), bool)
    mask[:, size : 5 * size, 2 * size : 7 * size] = True
    given = torch.from_numpy(mask[:, None].astype(np.float32))
    expected = pipeline(PROMPTS, as_torch(images), given, output_type="latent").images.reshape(2, -1).numpy()
    found = tokens_of(programs.inpaint_tokens, ours, images, jnp.asarray(mask), first_step=0)
    np.testing.assert_array_equal(found, expected)
    cells = mask[:, ::size, ::size].reshape(2, -1)
    kept = np.asarray(programs._tokenize(ours.modules, ours.params, images))
    np.testing.assert_array_equal(found[~cells], kept[~cells])


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_numbers_of_masked_tokens_equal(schedule):
    for tokens in (256, 1024):
        for num_steps in range(1, 65):
            ratio = torch.arange(1, num_steps + 1) / num_steps
            ratio = torch.cos(ratio * np.pi / 2) if schedule == "cosine" else 1 - ratio
            found = np.floor(np.float32(tokens) * mask_ratios(num_steps, schedule)[:-1])
            np.testing.assert_array_equal(found, (tokens * ratio).floor()[:-1])


@pytest.mark.parametrize("pad", ["<|endoftext|>", "a"])
def test_tokens_of_text_equal_transformers(tmp_path, pad):
    from transformers import CLIPTokenizer

    write_words(tmp_path, pad)
    tokenizer, pad_id = read_clip_tokenizer(tmp_path)
    theirs = CLIPTokenizer.from_pretrained(tmp_path)
    assert theirs.pad_token_id == pad_id
    for text in ("a red car", "  Two   REDs, it's\n3rd", "", "caf\u00e9", "redder!?"):
        assert tokenizer.encode(text).ids == theirs(text).input_ids


def report(what, found, expected):
    error = np.abs(np.asarray(found) - expected).max()
    print(f"{what}: {error:.1e}, the largest value is {np.abs(expected).max():.1f}")
    assert error < 1e-4
