"""XLA's options for convolutions on a CPU: when commands use them, and that gradients stay the same."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from experiments import apps
from experiments.apps import CPU_OPTIONS, use_cpu_options

# A command that writes the gradient of two convolutions, of inputs and kernels.
COMMAND = """
import sys
import jax, jax.numpy as jnp, numpy as np
from experiments import apps

def conv(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

def main():
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(4, 32, 32, 64)), *rng.normal(size=(2, 3, 3, 64, 64)) / 24
    error = lambda x, first, second: jnp.mean(jax.nn.swish(conv(jax.nn.swish(conv(x, first)), second)) ** 2)
    np.savez(out, *jax.jit(jax.grad(error, (0, 1, 2)))(*(jnp.asarray(a, jnp.float32) for a in arrays)))

out = sys.argv.pop()
apps._is_x86_without_avx512 = lambda: True
apps.run(main)
"""


def gradient(out, environment):
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    command = [sys.executable, "-c", COMMAND, str(out)]
    subprocess.run(command, cwd=Path(__file__).parents[2], env=environment, check=True)
    with np.load(out) as arrays:
        return {name: arrays[name] for name in arrays.files}


def test_gradients_are_those_of_xla_s_defaults(tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    with_options = gradient(tmp_path / "options.npz", {})
    default = gradient(tmp_path / "default.npz", {"XLA_FLAGS": ""})
    assert any((with_options[name] != default[name]).any() for name in default)  # other code computed them
    for name, expected in default.items():
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(with_options[name], expected, rtol=0, atol=atol)


@pytest.mark.parametrize(
    "environment, flags",
    [
        ({"JAX_PLATFORMS": "cpu"}, CPU_OPTIONS),
        ({"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}, ""),
        ({"JAX_PLATFORMS": "cpu", "XLA_FLAGS": "--xla_dump_to=x"}, "--xla_dump_to=x"),
        ({"JAX_PLATFORMS": "cuda,cpu"}, None),
        ({"JAX_PLATFORMS": "tpu"}, None),
    ],
)
def test_a_user_s_flags_and_other_platforms_are_left_alone(monkeypatch, environment, flags):
    monkeypatch.setattr(apps, "_is_x86_without_avx512", lambda: True)
    use_cpu_options(environment)
    assert environment.get("XLA_FLAGS") == flags


@pytest.mark.parametrize("flags, slow", [("fma avx2", True), ("fma avx2 avx512f", False)])
def test_the_options_are_for_processors_without_avx512(monkeypatch, flags, slow):
    monkeypatch.setattr(apps.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(apps.Path, "exists", lambda path: True)
    monkeypatch.setattr(apps.Path, "read_text", lambda path: f"flags : {flags}")
    assert apps._is_x86_without_avx512() == slow
