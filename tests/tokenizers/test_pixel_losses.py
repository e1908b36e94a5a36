import numpy as np

from muse_jax.tokenizers.pixel_losses import edge_loss, l1_loss


def pair():
    rng = np.random.default_rng(0)
    return rng.normal(size=(2, 3, 4, 3)).astype(np.float32), rng.normal(size=(2, 3, 4, 3)).astype(np.float32)


def test_l1_is_the_mean_of_a_loop():
    a, b = pair()
    expected = sum(abs(a[i] - b[i]) for i in np.ndindex(a.shape)) / a.size
    np.testing.assert_allclose(l1_loss(a, b), expected, rtol=1e-5)


def test_the_edge_loss_compares_neighbours_along_both_axes():
    a, b = pair()
    down, across = [], []
    for n, y, x, c in np.ndindex(a.shape):
        if y:
            down.append(abs((a[n, y, x, c] - a[n, y - 1, x, c]) - (b[n, y, x, c] - b[n, y - 1, x, c])))
        if x:
            across.append(abs((a[n, y, x, c] - a[n, y, x - 1, c]) - (b[n, y, x, c] - b[n, y, x - 1, c])))
    np.testing.assert_allclose(edge_loss(a, b), np.mean(down) + np.mean(across), rtol=1e-5)


def test_a_uniform_change_of_colour_has_no_edge_loss():
    a, _ = pair()
    np.testing.assert_allclose(edge_loss(a + 0.5, a), 0, atol=1e-6)
    np.testing.assert_allclose(l1_loss(a + 0.5, a), 0.5, rtol=1e-5)
