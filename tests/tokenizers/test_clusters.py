import numpy as np
import pytest

from muse_jax.tokenizers import VQGAN, cluster_codebook, codebook_rows, load_clusters
from tests.systems.probing import random_params

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(6, 4)) * 10
CODEBOOK = (CENTRES[np.arange(60) % 6] + RNG.normal(size=(60, 4)) * 0.1).astype(np.float32)


def test_well_separated_clusters_are_found():
    clusters = cluster_codebook(CODEBOOK, 6)
    groups = {tuple(np.flatnonzero(clusters.of_code == cluster) % 6) for cluster in range(6)}
    assert groups == {(group,) * 10 for group in range(6)}


def test_clusters_are_only_read_for_their_own_codebook(tmp_path):
    clusters = cluster_codebook(CODEBOOK, 6)
    file = tmp_path / "clusters.npz"
    clusters.save(file)
    assert [path.name for path in tmp_path.iterdir()] == ["clusters.npz"]
    half = CODEBOOK.astype(np.float16).astype(np.float32)  # as a checkpoint stores it
    for codebook in (CODEBOOK, half):
        np.testing.assert_array_equal(load_clusters(file, codebook).of_code, clusters.of_code)
    with pytest.raises(ValueError, match="are those of another codebook: make them with"):
        load_clusters(file, CODEBOOK[::-1])
    with pytest.raises(ValueError, match="are of 60 codes of width 4, but this tokenizer has 50 of 4"):
        load_clusters(file, CODEBOOK[:50])
    with pytest.raises(ValueError, match="There are no clusters in"):
        load_clusters(tmp_path / "none.npz", CODEBOOK)
    file.write_bytes(b"PK broken")
    with pytest.raises(ValueError, match="are damaged"):
        load_clusters(file, CODEBOOK)


def test_more_clusters_than_codes_are_refused():
    with pytest.raises(ValueError, match="num_clusters is 60, but 60 codes allow 1 to 59"):
        cluster_codebook(CODEBOOK, 60)


@pytest.mark.parametrize("kind", ["vq", "fsq", "lfq"])
def test_the_rows_of_a_codebook_are_what_the_decoder_reads(kind):
    sizes = {"vq": (9, 2), "fsq": (9, 2), "lfq": (16, 4)}[kind]
    tokenizer = VQGAN(
        filters=8,
        multipliers=(1,),
        num_res_blocks=1,
        patch=4,
        quantizer_kind=kind,
        codebook_size=sizes[0],
        embed_dim=sizes[1],
        levels=3,
    )
    params = random_params(lambda key: tokenizer.init(key, *tokenizer.example_inputs())["params"])
    images = np.random.default_rng(0).uniform(-1, 1, (4, 16, 16, 3)).astype(np.float32)
    ids = tokenizer.encode(params, images)
    read = tokenizer.apply({"params": params}, images)[1].codes
    assert len(np.unique(ids)) > 2
    np.testing.assert_allclose(codebook_rows(tokenizer, params)[ids], read, atol=1e-6)
