import numpy as np
import pytest

from muse_jax.text import TextPieces, train_text_pieces

WORDS = ["red heart", "blue dog", "green tree", "smiling face", "cat with tears"]
TEXTS = [f"a noto emoji of a {a} and a {b}" for a in WORDS for b in WORDS]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    file = tmp_path_factory.mktemp("pieces") / "tiny.model"
    assert train_text_pieces(TEXTS, file, 60) <= 60
    return file


def test_texts_are_decoded_from_their_pieces(file):
    pieces = TextPieces.from_file(file, 40)
    ids, mask = pieces.encode(["A Red Heart", "cat", ""])
    assert ids.shape == mask.shape == (3, 40) and ids.dtype == np.int32
    assert ids.min() >= 0 and ids.max() < len(pieces)
    assert mask.sum(axis=1).tolist()[2] == 0 and mask[0].sum() > mask[1].sum() > 0
    assert pieces.decode(ids, mask) == ["a red heart", "cat", ""]
    beyond = np.full((1, 2), len(pieces) + 5)
    assert pieces.decode(beyond, np.ones((1, 2), bool)) == pieces.decode(beyond * 0, np.ones((1, 2), bool))


def test_training_is_repeatable_and_leaves_one_file(file, tmp_path):
    train_text_pieces(TEXTS, tmp_path / "again.model", 60)
    assert (tmp_path / "again.model").read_bytes() == file.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again.model"]


def test_a_long_text_is_refused_and_a_long_caption_is_cut(file):
    pieces = TextPieces.from_file(file, 5)
    with pytest.raises(ValueError, match="'a red heart and a blue dog' has .* the network reads at most 5"):
        pieces.encode(["cat", "a red heart and a blue dog"])
    whole, _ = TextPieces.from_file(file, 40).encode(["a red heart and a blue dog"])
    ids, mask = pieces.encode_cut(["a red heart and a blue dog"])
    assert mask.all() and ids.tolist() == whole[:, :5].tolist()


def test_bad_input_is_refused(file, tmp_path):
    with pytest.raises(ValueError, match="There is no sentencepiece model .*experiments.train_text_pieces"):
        TextPieces.from_file(tmp_path / "none.model", 8)
    (tmp_path / "other.model").write_bytes(b"text")
    with pytest.raises(ValueError, match="is not a sentencepiece model"):
        TextPieces.from_file(tmp_path / "other.model", 8)
    with pytest.raises(ValueError, match="There is no text to train on"):
        train_text_pieces(["", " "], tmp_path / "empty.model", 60)
    with pytest.raises(ValueError, match="cannot make 5 pieces of these 25 texts"):
        train_text_pieces(TEXTS, tmp_path / "few.model", 5)
    assert not (tmp_path / "few.model").exists()
    with pytest.raises(ValueError, match="Texts must be a list of strings"):
        TextPieces.from_file(file, 8).encode("red heart")
