"""Figures of the same images against torch-fidelity, with random weights; skipped where it is absent."""

import jax
import numpy as np
import pytest

from muse_jax.evaluation import embedders
from muse_jax.evaluation.embedding import FeatureSums
from muse_jax.evaluation.frechet import frechet_distance
from muse_jax.evaluation.kernel_distance import kernel_distance
from muse_jax.evaluation.neighborhoods import precision_recall_density_coverage
from muse_jax.evaluation.real_images import make_reference
from muse_jax.interop.inception import convert_inception
from muse_jax.sharding.partitioning import one_device_mesh
from tests.nn.inception_state import random_state, torch_state

COUNT, TOLERANCE = 24, 1e-3


def images(seed, contrast):
    """Smooth noise, so that resizing matters little and features differ much."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (COUNT, 4, 4, 3)) * contrast
    return np.kron(coarse, np.ones((1, 8, 8, 1))).astype(np.uint8)


def test_figures_equal_torch_fidelity(tmp_path, monkeypatch, capsys):
    torch = pytest.importorskip("torch")
    fidelity = pytest.importorskip("torch_fidelity")
    state = random_state()
    torch.save(torch_state(state), tmp_path / "state.pth")
    sets = images(0, 1.0), images(1, 0.7)
    tensors = [torch.utils.data.TensorDataset(torch.from_numpy(x.transpose(0, 3, 1, 2).copy())) for x in sets]

    class First(torch.utils.data.Dataset):
        def __init__(self, data):
            self.data = data

        def __len__(self):
            return len(self.data)

        def __getitem__(self, index):
            return self.data[index][0]

    expected = fidelity.calculate_metrics(
        input1=First(tensors[0]),
        input2=First(tensors[1]),
        feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(tmp_path / "state.pth"),
        cuda=False,
        batch_size=8,
        isc=True,
        fid=True,
        kid=True,
        prc=True,
        kid_subsets=1,
        kid_subset_size=COUNT,
        samples_shuffle=False,
        save_cpu_ram=True,
        cache=False,
        verbose=False,
    )
    params = jax.tree.map(np.asarray, convert_inception(state))
    embedder = embedders.EMBEDDERS["inception"]
    tiny = embedders.Embedder(embedder.dim, embedder.classes, embedder.size, embedder.embed, lambda _: params)
    monkeypatch.setitem(embedders.EMBEDDERS, "inception", tiny)
    mesh = one_device_mesh()
    records = ([{"image": image} for image in x] for x in sets)
    generated, real = (make_reference(x, COUNT, "inception", "tf1", mesh, batch_size=8) for x in records)
    sums = FeatureSums(tiny, "tf1", COUNT, mesh)
    add, total = jax.jit(sums.add), sums.zeros()
    for start in range(0, COUNT, 8):
        total, _ = add(total, params, sets[0][start : start + 8], np.ones(8, bool))
    neighborhoods = precision_recall_density_coverage(generated.features, real.features)
    found = {
        "frechet_inception_distance": frechet_distance(
            generated.mean, generated.covariance, real.mean, real.covariance
        ),
        "kernel_inception_distance_mean": kernel_distance(generated.features, real.features),
        "inception_score_mean": total.scores.score()[0],
        "precision": neighborhoods["precision"],
        "recall": neighborhoods["recall"],
    }
    with capsys.disabled():
        for name, value in found.items():
            error = abs(value - expected[name]) / max(abs(expected[name]), 1e-12)
            print(f"{name}: {value:.6g}, torch-fidelity {expected[name]:.6g}, relative error {error:.1e}")
    assert found == {name: pytest.approx(expected[name], rel=TOLERANCE) for name in found}
