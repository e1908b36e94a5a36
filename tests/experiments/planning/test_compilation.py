"""Compiling for a pod: what is read of a compile that is not waited for is what a whole one says."""

import importlib.util
import math
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from experiments.planning import compilation
from experiments.planning.compilation import compile_program, laid_out_bytes
from experiments.planning.topology import load_topology

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


class Slow:
    """A lowered program whose memory is laid out at once and whose machine code takes until `release`."""

    def __init__(self, assignment: str):
        self.assignment, self.release = assignment, threading.Event()

    def compile(self, compiler_options):
        folder = Path(compiler_options["xla_dump_to"])
        (folder / "module.after_optimizations.txt").write_text("HloModule program")
        (folder / "module.after_optimizations-buffer-assignment.txt").write_text(self.assignment)
        (folder / "module.after_optimizations_after_buffer_assignment.txt").write_text("HloModule program")
        self.release.wait(60)
        raise RuntimeError("the machine code is not to be waited for")


ASSIGNMENT = """BufferAssignment:
allocation 0: size 512, page 0, thread-local:
allocation 1: size 400, page 0, parameter 3, shape |f32[100]| at ShapeIndex {}, maybe-live-out:
 value: <3 p @0> (size=400,offset=0): f32[100]
allocation 2: size 40, page 0, parameter 1, shape |f32[10]| at ShapeIndex {}:
allocation 3: size 7, page 0, maybe-live-out:
allocation 4: size 8, page 0, output shape is |(f32[100])|, maybe-live-out:
allocation 5: size 12, page 0, constant:
allocation 6: size 3000, page 0, preallocated-temp:
allocation 7: size 99999, color 1, page 0, preallocated-temp:
"""


def test_arguments_temporaries_and_fresh_outputs_are_told_apart_and_on_chip_memory_left_out():
    assert laid_out_bytes(ASSIGNMENT) == (440, 3000, 15)


def test_machine_code_that_takes_too_long_is_given_up():
    program = Slow(ASSIGNMENT)
    compiled = compile_program(program, code_seconds=0)
    program.release.set()
    assert compiled[:4] == ("HloModule program", 440, 3000, 15)
    assert math.isnan(compiled.code_bytes)


def test_what_the_compiler_refuses_is_raised():
    program = Slow(ASSIGNMENT)
    program.release.set()
    with pytest.raises(RuntimeError, match="not to be waited for"):
        compile_program(program)


@needs_libtpu
def test_the_layout_that_is_dumped_has_the_bytes_that_the_compiled_program_has(monkeypatch):
    dumped = []
    largest = compilation._largest

    def kept(folder, pattern):
        dumped.append(largest(folder, "*-buffer-assignment.txt"))
        return largest(folder, pattern)

    monkeypatch.setattr(compilation, "_largest", kept)
    device = jax.sharding.SingleDeviceSharding(load_topology("v5e:2x2").devices[0])
    weights = jax.ShapeDtypeStruct((4096, 4096), jnp.float32, sharding=device)

    def program(a, b):
        c = jnp.sort(a @ b, axis=0)
        return a + 1, c @ jnp.sort(c, axis=1)

    lowered = jax.jit(program, donate_argnums=0).lower(weights, weights)
    compiled = compile_program(lowered)
    arguments, temporaries, fresh = laid_out_bytes(dumped[0])
    assert arguments == compiled.argument_bytes == 2 * 4 * 4096**2
    assert temporaries == pytest.approx(compiled.temporary_bytes, rel=0.01) and temporaries > 4 * 4096**2
    assert fresh == pytest.approx(compiled.fresh_bytes, rel=0.01) and fresh >= 4 * 4096**2
    assert compiled.code_bytes > 0 and compiled.text.startswith("HloModule")
