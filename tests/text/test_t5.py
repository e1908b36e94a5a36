"""T5 against a numpy implementation and transformers; file formats, tokenizer and errors."""

import json
import shutil

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import save_file

from muse_jax.interop.name_table import SafetensorsFiles
from muse_jax.text import T5_SIZES, T5Encoder, load_text_encoder
from muse_jax.text.encoder import describe_t5
from muse_jax.text.t5 import relative_buckets
from tests.text import t5_files

TEXTS = ["a noto emoji of a red heart", "blue dog", "", "smiling face cat with tears green tree puppy"]


@pytest.fixture(scope="module")
def weights():
    return t5_files.random_weights()


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
    return t5_files.write_sentencepiece(tmp_path_factory.mktemp("spiece"))


@pytest.fixture
def directory(tmp_path, spiece):
    shutil.copy(spiece, tmp_path / "spiece.model")
    return tmp_path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory, spiece, weights):
    path = tmp_path_factory.mktemp("t5")
    shutil.copy(spiece, path / "spiece.model")
    t5_files.write_safetensors(path, weights)
    return load_text_encoder(f"t5:{path}", max_length=48)


def bucket_by_loop(key_minus_query: int) -> int:
    """Buckets of Raffel et al. 2020 (32 buckets, maximum distance 128) in integer arithmetic."""
    side = 16 if key_minus_query > 0 else 0
    n = abs(key_minus_query)
    if n < 8:
        return side + n
    steps = 0
    while steps < 7 and n * n >= 64 * 2 ** (steps + 1):  # n >= 8 * 2^((steps + 1) / 2)
        steps += 1
    return side + 8 + steps


def numpy_t5(w: dict, ids: np.ndarray) -> np.ndarray:
    """Encoder in numpy and float64, for one unpadded sequence."""
    n, heads, dim = len(ids), t5_files.HEADS, t5_files.HEAD_DIM

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * w[name]

    x = w["shared.weight"][ids]
    table = w["encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
    for i in range(t5_files.DEPTH):
        block = f"encoder.block.{i}.layer."
        y = norm(x, block + "0.layer_norm.weight")
        q, k, v = ((y @ w[f"{block}0.SelfAttention.{p}.weight"].T).reshape(n, heads, dim) for p in "qkv")
        mixed = np.zeros((n, heads, dim))
        for h in range(heads):
            for a in range(n):
                logits = [q[a, h] @ k[b, h] + table[bucket_by_loop(b - a), h] for b in range(n)]
                e = np.exp(np.array(logits) - max(logits))
                mixed[a, h] = (e / e.sum()) @ v[:, h]
        x = x + mixed.reshape(n, heads * dim) @ w[block + "0.SelfAttention.o.weight"].T
        y = norm(x, block + "1.layer_norm.weight")
        gate = y @ w[block + "1.DenseReluDense.wi_0.weight"].T
        gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        linear = y @ w[block + "1.DenseReluDense.wi_1.weight"].T
        x = x + (gate * linear) @ w[block + "1.DenseReluDense.wo.weight"].T
    return norm(x, "encoder.final_layer_norm.weight")


def random_batch(lengths: list[int], tokens: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(1).integers(0, t5_files.VOCAB, (len(lengths), tokens)).astype(np.int32)
    mask = np.arange(tokens)[None] < np.array(lengths)[:, None]
    return ids, mask


@pytest.fixture(scope="module")
def batch_and_states(encoder):
    ids, mask = random_batch([48, 20, 1], 48)
    return ids, mask, np.asarray(jax.jit(encoder.apply)(encoder.params, ids, mask))


def test_equals_a_numpy_forward_without_padding(batch_and_states, weights):
    ids, mask, states = batch_and_states
    wide = {name: array.astype(np.float64) for name, array in weights.items()}
    worst = 0.0
    for row, length in enumerate(mask.sum(1)):
        worst = max(worst, np.abs(states[row, :length] - numpy_t5(wide, ids[row, :length])).max())
    print("max difference from numpy", worst)
    assert states.dtype == np.float32 and worst < 1e-4


def test_equals_transformers_on_its_own_random_weights(directory):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_heads": 4, "num_layers": 3}
    config = transformers.T5Config(**sizes, feed_forward_proj="gated-gelu", dropout_rate=0.0)
    model = transformers.T5EncoderModel(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # norms start at one: move them
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
    model.save_pretrained(directory)
    encoder = load_text_encoder(f"t5:{directory}")
    # 160 tokens reach past the largest distance that has a bucket of its own.
    ids, mask = random_batch([160, 77, 3], 160)
    states = np.asarray(encoder.apply(encoder.params, ids, mask))
    with torch.no_grad():
        expected = model(torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long()).last_hidden_state
    difference = np.abs(states - expected.numpy())[mask].max()
    print("max difference from transformers", difference)
    assert difference < 1e-4


def test_buckets_equal_the_loop():
    table = relative_buckets(300)
    for query in (0, 150, 299):
        assert [bucket_by_loop(key - query) for key in range(300)] == table[query].tolist()
    assert table.max() == 31 and table.min() == 0


def test_padding_does_not_change_the_states(encoder, batch_and_states):
    ids, mask, states = batch_and_states
    changed = np.where(mask, ids, 5)
    again = np.asarray(jax.jit(encoder.apply)(encoder.params, changed, mask))
    np.testing.assert_allclose(again[mask], states[mask], atol=1e-5)


def assert_same_params(a, b, atol=0.0):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(np.float32(x), np.float32(y), atol=atol), a, b)


def test_sharded_files_give_the_same_weights(directory, weights, encoder):
    t5_files.write_shards(directory, weights)
    assert_same_params(load_text_encoder(f"t5:{directory}").params, encoder.params)


def test_t5x_files_give_the_same_weights(directory, weights, encoder):
    t5_files.write_t5x(directory, weights)
    read = load_text_encoder(f"t5:{directory}")
    assert_same_params(read.params, encoder.params)
    assert read.module.config == encoder.module.config


def test_t5x_in_bfloat16(directory, weights, encoder):
    t5_files.write_t5x(directory, weights, "bfloat16")
    rounded = jax.tree.map(lambda x: np.float32(np.asarray(x).astype(ml_dtypes.bfloat16)), encoder.params)
    rounded["final_norm"] = encoder.params["final_norm"]  # the msgpack file keeps it in float32
    assert_same_params(load_text_encoder(f"t5:{directory}").params, rounded)


def test_bfloat16_files_and_compute(directory, weights, batch_and_states):
    narrow = {name: array.astype(ml_dtypes.bfloat16) for name, array in weights.items()}
    narrow["encoder.embed_tokens.weight"] = narrow.pop("shared.weight")
    t5_files.write_safetensors(directory, narrow)
    encoder = load_text_encoder(f"t5:{directory}", dtype=jnp.bfloat16)
    assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(encoder.params))
    ids, mask, states = batch_and_states
    rough = np.asarray(jax.jit(encoder.apply)(encoder.params, ids, mask))
    assert rough.dtype == np.float32
    assert 0 < np.abs(rough - states)[mask].mean() < 0.05


def test_weights_stay_in_host_memory(encoder):
    leaves = jax.tree.leaves(encoder.params)
    assert len(leaves) == 12 and all(isinstance(leaf, np.ndarray) for leaf in leaves)


def test_tokens_end_with_the_end_of_text_and_padding(encoder, directory, weights):
    ids, mask = encoder.tokenize(TEXTS)
    processor = encoder.tokenizer.processor
    for row, text in enumerate(TEXTS):
        length = mask[row].sum()
        assert ids[row, length - 1] == 1 and not ids[row, length:].any() and not mask[row, length:].any()
        assert processor.decode(ids[row, : length - 1].tolist()) == text
    assert ids[2, :2].tolist() == [1, 0] and ids.shape == (4, 48)
    t5_files.write_safetensors(directory, weights)
    short = load_text_encoder(f"t5:{directory}", max_length=4)
    with pytest.warns(UserWarning, match="'a noto emoji of a red heart' has .* cut to 4"):
        cut, _ = short.tokenize(TEXTS[:1])
    assert cut[0].tolist() == [*ids[0, :3], 1]
    assert load_text_encoder(f"t5:{directory}").max_length == 64


@pytest.mark.parametrize("size", T5_SIZES)
def test_published_sizes_have_the_published_numbers_of_parameters(size):
    c = T5_SIZES[size]
    tree = jax.eval_shape(
        T5Encoder(c).init, jax.random.key(0), jnp.zeros((1, 4), jnp.int32), jnp.ones((1, 4), bool)
    )
    count = sum(leaf.size for leaf in jax.tree.leaves(nn.meta.unbox(tree)))
    layer = 4 * c.width * c.heads * 64 + 3 * c.width * c.mlp_dim + 2 * c.width
    assert count == 32128 * c.width + 32 * c.heads + c.depth * layer + c.width
    if size == "xxl":
        assert count == 4_762_310_656
    spec = nn.get_partition_spec(tree)["params"]["layers"]["mlp"]["wi_0"]["kernel"]
    assert spec == jax.sharding.PartitionSpec("layers", "embed", "mlp")


def lacks_a_tensor(directory, weights):
    del weights["encoder.block.1.layer.1.DenseReluDense.wo.weight"]
    t5_files.write_safetensors(directory, weights)


def is_version_1_0(directory, weights):
    t5_files.write_safetensors(directory, weights, feed_forward_proj="relu")


def has_another_shape(directory, weights):
    weights["encoder.final_layer_norm.weight"] = np.ones(63, np.float32)
    t5_files.write_safetensors(directory, weights)


def is_cut_short(directory, weights):
    t5_files.write_safetensors(directory, weights)
    file = directory / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def lacks_a_shard(directory, weights):
    t5_files.write_shards(directory, weights)
    (directory / "model-00002-of-00003.safetensors").unlink()


def lacks_spiece(directory, weights):
    t5_files.write_safetensors(directory, weights)
    (directory / "spiece.model").unlink()


def has_a_broken_spiece(directory, weights):
    t5_files.write_safetensors(directory, weights)
    (directory / "spiece.model").write_bytes(b"not a model")


def has_few_embeddings(directory, weights):
    weights["shared.weight"] = weights["shared.weight"][:20]
    t5_files.write_safetensors(directory, weights)


def is_old_t5x(directory, weights):
    t5_files.write_t5x(directory, {k: np.abs(v) for k, v in weights.items()}, "uint16")


def is_empty(directory, weights):
    pass


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lacks_a_tensor, "no tensor 'encoder.block.1.layer.1.DenseReluDense.wo.weight'"),
        (is_version_1_0, "feed_forward_proj 'relu'"),
        (has_another_shape, r"shape \(63,\).*has \(64,\)"),
        (is_cut_short, "not a complete safetensors file"),
        (lacks_a_shard, "model-00002-of-00003.safetensors does not exist"),
        (lacks_spiece, "no spiece.model"),
        (has_a_broken_spiece, "not a sentencepiece model"),
        (has_few_embeddings, "pieces.*20 embeddings"),
        (is_old_t5x, "uint16"),
        (is_empty, "contains no T5 weights"),
    ],
)
def test_damaged_directories_are_refused(directory, spoil, message):
    spoil(directory, t5_files.random_weights())
    with pytest.raises(ValueError, match=message):
        load_text_encoder(f"t5:{directory}")


def test_a_missing_directory_is_refused(tmp_path):
    with pytest.raises(ValueError, match="absent does not exist"):
        load_text_encoder(f"t5:{tmp_path / 'absent'}")


def test_only_the_encoder_s_tensors_are_loaded(tmp_path):
    save_file({"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.ones(4, np.float16)}, tmp_path / "f")
    files = SafetensorsFiles([tmp_path / "f"])
    assert isinstance(files.read("a"), np.memmap) and files.shape("a") == (2, 3) and "c" not in files
    np.testing.assert_array_equal(files.read("a"), [[0, 1, 2], [3, 4, 5]])
    assert files.read("b").dtype == np.float16
    (tmp_path / "g").write_bytes(json.dumps({}).encode())
    with pytest.raises(ValueError, match="not a complete safetensors file"):
        SafetensorsFiles([tmp_path / "g"])


def test_a_directory_is_described_by_its_shapes(directory, weights):
    t5_files.write_safetensors(directory, weights)
    lines = describe_t5(directory)
    assert lines[0].startswith("T5 v1.1 encoder, of no published size: ") and "all of them there" in lines[0]
    assert "width 64, 3 layers, 4 heads, MLP 96" in lines[1]
    last = "encoder.block.2.layer.1.DenseReluDense.wo.weight"
    t5_files.write_safetensors(directory, {**weights, last: np.zeros((64, 97), np.float32)})
    with pytest.raises(ValueError, match=rf"'{last}' has shape \(64, 97\)"):
        describe_t5(directory)
    t5_files.write_safetensors(directory, {name: w for name, w in weights.items() if name != last})
    with pytest.raises(ValueError, match=rf"no tensor '{last}'"):
        describe_t5(directory)
