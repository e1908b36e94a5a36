"""LPIPS against its authors' package, with random weights; skipped where it is not installed."""

import numpy as np
import pytest

from muse_jax.tokenizers.lpips import lpips


@pytest.mark.parametrize("network", ["vgg", "alex"])
def test_distances_equal_those_of_the_package_lpips(network):
    torch = pytest.importorskip("torch")
    package = pytest.importorskip("lpips")
    torch.manual_seed(0)
    theirs = package.LPIPS(pretrained=False, net=network, pnet_rand=True, verbose=False).eval()
    slices = [getattr(theirs.net, f"slice{i}") for i in range(1, 6)]
    convolutions = [layer for part in slices for layer in part if isinstance(layer, torch.nn.Conv2d)]
    heads = {}
    for i in range(5):
        head = getattr(theirs, f"lin{i}").model[-1].weight
        head.data.uniform_(0, 1)
        heads[str(i)] = head.detach().numpy().reshape(-1)
    params = {
        f"conv_{i}": {
            "kernel": layer.weight.detach().numpy().transpose(2, 3, 1, 0),
            "bias": layer.bias.detach().numpy(),
        }
        for i, layer in enumerate(convolutions)
    }
    images, targets = np.random.default_rng(0).uniform(-1, 1, (2, 2, 64, 64, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(*(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()) for x in (images, targets)))
    found = lpips({network: params, "heads": heads}, images, targets)
    error = np.abs(found / expected.numpy().reshape(-1) - 1).max()
    print(f"LPIPS on {network} against lpips: {error:.1e}")
    assert error < 1e-4
