"""The reader of HLO texts: on a program compiled here for eight virtual devices, and on texts written out."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from experiments.planning.hlo import Collective, Program
from pallas_kernels import aot
from pallas_kernels.local_attention import gpu
from pallas_kernels.local_attention.arg_specs import Case
from tests.pallas_kernels.cuda import needs_gpu_compiler

PROGRAM = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec as P
devices = DEVICES
mesh = Mesh(np.array(devices).reshape(2, 4), ("data", "fsdp"), axis_types=(AxisType.Auto,) * 2)
put = lambda shape, *spec: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, P(*spec)))
def step(layers, x):
    def layer(x, w):
        return jax.lax.with_sharding_constraint(x @ w, NamedSharding(mesh, P(("data", "fsdp")))), None
    return jax.lax.scan(layer, x, layers)[0].sum()
with jax.set_mesh(mesh):
    lowered = jax.jit(step).lower(put((5, 64, 64), None, "fsdp"), put((2048, 64), ("data", "fsdp")))
print(lowered.compile().as_text())
"""
DEVICES = {
    "virtual CPUs": "jax.devices()",
    "two nodes of four H100s": "__import__('pallas_kernels.aot').aot.gpus('h100', 2, 4)",
}


@pytest.mark.parametrize(
    "devices", ["virtual CPUs", pytest.param("two nodes of four H100s", marks=needs_gpu_compiler)]
)
def test_weights_gathered_in_a_scan_count_once_a_layer(devices):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    environment = {**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[3]
    program = PROGRAM.replace("DEVICES", DEVICES[devices])
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    traffic = Program(done.stdout, 8).total()
    # Each of 5 layers: the 16 rows of 64 floats that a device has go to the 4 devices along fsdp.
    gathers = {each: times for each, times in traffic.collectives.items() if each.kind == "all-gather"}
    assert sum(times * each.operand_bytes for each, times in gathers.items()) == 5 * 16 * 64 * 4
    assert {each.group for each in gathers} == {(0, 1, 2, 3)}
    sums = [each for each in traffic.collectives if each.kind == "all-reduce"]
    assert [(each.operand_bytes, sorted(each.group)) for each in sums] == [(4, list(range(8)))]
    assert traffic.unknown_loops == 0
    # At least each layer's input and output pass through memory, and each gathered weight.
    least = 5 * 4 * (2 * 256 * 64 + 64 * 64)
    assert least < traffic.hbm_bytes < 6 * least


@needs_gpu_compiler
def test_a_triton_kernel_moves_its_operands_and_results_once():
    case = Case("small", (16, 16), (3, 3), heads=2)
    arguments = case.arguments(4, jnp.bfloat16)
    compiled = aot.compile_for_gpu(lambda *a: gpu.attend(*a, case.geometry), *arguments)
    traffic = Program(compiled.executable.as_text()).total()
    places = 4 * 256 * 2
    # Query, key, value and output in bfloat16; the log-sum-exp in float32, which the output leaves unused.
    assert traffic.hbm_bytes == 4 * 2 * places * 64 + 4 * places
    assert not traffic.collectives and traffic.unknown_loops == 0


LOOP = """HloModule loop

%body (s: (s32[], f32[8])) -> (s32[], f32[8]) {
  %s = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%s), index=0
  %x = f32[8]{0} get-tuple-element(%s), index=1
  %r = f32[8]{0} all-reduce(%x), channel_id=1, replica_groups=REPLICAS, to_apply=%add
  ROOT %t = (s32[], f32[8]{0}) tuple(%i, %r)
}

%condition (s: (s32[], f32[8])) -> pred[] {
  %s = (s32[], f32[8]{0}) parameter(0)
  %bound = s32[]{:T(128)} constant(9)
  %i = s32[] get-tuple-element(%s), index=0
  ROOT %c = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %x = f32[8]{0} parameter(0)
  %first = s32[] constant(FIRST)
  %t = (s32[], f32[8]{0}) tuple(%first, %x)
  %w = (s32[], f32[8]{0}) while(%t), condition=%condition, body=%body
  %fast = f32[8]{0:T(8)S(1)} negate(%x)
  ROOT %out = f32[8]{0} get-tuple-element(%w), index=1
}
"""


@pytest.mark.parametrize("first, trips", [("0", 9), ("4", 5)])
def test_a_loop_runs_from_its_counters_start_to_the_bound(first, trips):
    text = LOOP.replace("FIRST", first).replace("REPLICAS", "{{0,1},{2,3}}")
    assert Program(text, 4).total().collectives == {Collective("all-reduce", 32, (0, 1)): trips}


def test_on_chip_memory_is_no_memory_traffic():
    traffic = Program(LOOP.replace("FIRST", "0").replace("REPLICAS", "{}"), 4).total()
    # negate reads 8 floats and writes none to memory; each of 9 rounds sums 8 in place of 8, and compares.
    assert traffic.hbm_bytes == 32 + 9 * (64 + 4 + 4 + 1)


@pytest.mark.parametrize(
    "written, group",
    [
        ("{}", (0, 1, 2, 3, 4, 5, 6, 7)),
        ("{{0,2,4},{1,3,5}}", (0, 2, 4)),
        ("[2,4]<=[8]", (0, 1, 2, 3)),
        ("[4,2]<=[2,4]T(1,0)", (0, 4)),
        ("mesh['a'=2,'b'=4] {'b'}", (0, 1, 2, 3)),
        ("mesh['a'=2,'b'=4] {'a'}", (0, 4)),
        ("mesh['a'=4,'b'=2], device_ids=([2,4]T(1,0)) {'a'}", (0, 1, 2, 3)),
        ("mesh['a'=8] {'a':(2)4}", (0, 1, 2, 3)),
        ("mesh['a'=8] {'a':(1)2}", (0, 4)),
    ],
)
def test_each_way_to_write_a_group(written, group):
    traffic = Program(LOOP.replace("FIRST", "0").replace("REPLICAS", written), 8).total()
    assert next(iter(traffic.collectives)).group == group


def test_a_text_without_entry_is_refused():
    with pytest.raises(ValueError, match="no entry computation"):
        Program("HloModule empty")


OFFLOADED = """HloModule offloaded

%called (p: f32[8]) -> f32[32] {
  %p = f32[8]{0} parameter(0)
  ROOT %g = f32[32]{0} all-gather(%p), channel_id=3, replica_groups={{0,1,2,3}}, dimensions={0}
}, execution_thread="sparsecore"

%async (p: f32[8]) -> f32[32] {
  %p = f32[8]{0} parameter(0)
  ROOT %c = f32[32]{0} custom-call(%p), custom_call_target="offload", called_computations={%called}
}, execution_thread="sparsecore"

ENTRY %main (x: f32[8]) -> f32[32] {
  %x = f32[8]{0} parameter(0)
  %s = ((f32[8]{0}), f32[32]{0}) async-start(%x), async_execution_thread="sparsecore", calls=%async
  ROOT %d = f32[32]{0} async-done(%s)
}
"""


def test_a_collective_that_a_custom_call_names_counts():
    expected = {Collective("all-gather", 32, (0, 1, 2, 3)): 1}
    assert Program(OFFLOADED, 4).total().collectives == expected


def test_a_slice_that_a_fusion_inside_a_fusion_takes_is_all_that_is_read():
    text = """HloModule nested

%slice (w: f32[24,8,16], i: s32[]) -> f32[8,16] {
  %w = f32[24,8,16]{2,1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  %one = f32[1,8,16]{2,1,0} dynamic-slice(%w, %i, %zero, %zero), dynamic_slice_sizes={1,8,16}
  ROOT %b = f32[8,16]{1,0} bitcast(%one)
}

%product (x: f32[4,8], w: f32[24,8,16], i: s32[]) -> f32[4,16] {
  %x = f32[4,8]{1,0} parameter(0)
  %w = f32[24,8,16]{2,1,0} parameter(1)
  %i = s32[] parameter(2)
  %layer = f32[8,16]{1,0} fusion(%w, %i), kind=kLoop, calls=%slice
  ROOT %p = f32[4,16]{1,0} convolution(%x, %layer), dim_labels=bf_io->bf
}

ENTRY %main (x: f32[4,8], w: f32[24,8,16], i: s32[]) -> f32[4,16] {
  %x = f32[4,8]{1,0} parameter(0)
  %w = f32[24,8,16]{2,1,0} parameter(1)
  %i = s32[]{:S(2)} parameter(2)
  ROOT %f = f32[4,16]{1,0} fusion(%x, %w, %i), kind=kOutput, calls=%product
}
"""
    assert Program(text, 1).total().hbm_bytes == 4 * (4 * 8 + 8 * 16 + 4 * 16)


def test_a_layer_written_into_an_array_that_is_tiled_anew_is_all_that_moves():
    text = """HloModule tiled

%tiles (w: bf16[24,8,16]) -> bf16[24,8,16] {
  %w = bf16[24,8,16]{2,1,0:T(16,128)(2,1)} parameter(0)
  ROOT %c = bf16[24,8,16]{2,1,0:T(8,128)(2,1)} copy(%w)
}

%write (w: bf16[24,8,16], x: bf16[1,8,16], i: s32[]) -> bf16[24,8,16] {
  %w = bf16[24,8,16]{2,1,0:T(16,128)(2,1)} parameter(0)
  %t = bf16[24,8,16]{2,1,0:T(8,128)(2,1)} fusion(%w), kind=kLoop, calls=%tiles
  %x = bf16[1,8,16]{2,1,0} parameter(1)
  %i = s32[] parameter(2)
  %zero = s32[] constant(0)
  ROOT %u = bf16[24,8,16]{2,1,0:T(16,128)(2,1)} dynamic-update-slice(%t, %x, %i, %zero, %zero)
}

ENTRY %main (w: bf16[24,8,16], x: bf16[1,8,16], i: s32[]) -> bf16[24,8,16] {
  %w = bf16[24,8,16]{2,1,0:T(16,128)(2,1)} parameter(0)
  %x = bf16[1,8,16]{2,1,0:S(1)} parameter(1)
  %i = s32[]{:S(2)} parameter(2)
  ROOT %f = bf16[24,8,16]{2,1,0:T(16,128)(2,1)} fusion(%w, %x, %i), kind=kLoop, calls=%write
}
"""
    assert Program(text, 1).total().hbm_bytes == 2 * 2 * 8 * 16


def test_what_an_asynchronous_call_moves_counts_once():
    begun = "  %s = ((f32[8]{0}), f32[32]{0}) async-start("
    passed = "  %u = ((f32[8]{0}), f32[32]{0}) async-update(%s)\n  ROOT"
    text = OFFLOADED.replace("  ROOT %d", passed + " %d").replace("async-done(%s)", "async-done(%u)")
    assert begun in text and passed in text
    expected = Program(OFFLOADED, 4).total()
    assert Program(text, 4).total() == expected and expected.hbm_bytes > 0


def test_a_slice_that_is_brought_on_chip_beside_other_work_is_all_that_is_read():
    text = """HloModule prefetched

%async (w: s8[4096]) -> s8[512] {
  %w = s8[4096]{0} parameter(0)
  ROOT %c = s8[512]{0:S(1)} slice(%w), slice={[0:512]}
}

ENTRY %main (w: s8[4096]) -> s8[512] {
  %w = s8[4096]{0} parameter(0)
  %s = ((s8[4096]{0}), s8[512]{0:S(1)}, s32[]{:S(2)}) async-start(%w), calls=%async
  ROOT %d = s8[512]{0:S(1)} async-done(%s)
}
"""
    assert Program(text, 1).total().hbm_bytes == 512
