"""Resource use of the Pallas kernels in a GPU program, by NVIDIA's assembler: registers, spills, memory."""

import importlib.util
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pallas_kernels.aot import compile_for_gpu
from pallas_kernels.gpu_targets import GPU, GPUS

_TRITON = re.compile(r'custom_call_target="__gpu\$xla\.gpu\.triton".*?\bname = "(\w+)"')
_LAUNCH = re.compile(
    r"kCustomKernel .*\] (\S+) grid: \[([\d, ]+)\] threads: \[([\d, ]+)\]\s+shared_memory: (\d+)"
)
_USED = re.compile(r"Used (\d+) registers")
_SPILLED = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
# Tensor core instructions: of four warps together (Hopper) and of one warp.
_TENSOR = {"wgmma": "wgmma.mma_async.", "mma": "mma.sync."}
_WARPS_A_CORE = 64
_RESERVED_SHARED = 1024  # bytes of shared memory that CUDA reserves per block


@dataclass(frozen=True)
class Kernel:
    """Compiled kernel and its resources.

    Fields:
      programs: number in the launch grid.
      threads: per program.
      registers: per thread.
      spilled: bytes that a thread stores and loads for lack of registers.
      shared: bytes of shared memory per program.
      tensor: number of tensor core instructions in the code, by kind.
    """

    name: str
    programs: int
    threads: int
    registers: int
    spilled: int
    shared: int
    tensor: dict[str, int]

    def occupancy(self, gpu: GPU) -> float:
        """Fraction of the warps of a streaming multiprocessor that can be resident, in (0, 1]."""
        warps = self.threads // 32
        # Registers are allocated to a warp in units of 256.
        by_registers = 65_536 // (256 * -(-32 * self.registers // 256) * warps)
        by_shared = gpu.core_shared // (self.shared + _RESERVED_SHARED)
        return min(by_registers, by_shared, _WARPS_A_CORE // warps, 32) * warps / _WARPS_A_CORE


def find_ptxas() -> str:
    """Path of ptxas, from `make gpu-compiler` or else from a CUDA toolkit.

    Raises:
      ValueError: if there is none.
    """
    package = importlib.util.find_spec("nvidia")
    for folder in package.submodule_search_locations or () if package else ():
        for path in Path(folder).glob("*/bin/ptxas"):
            return str(path)
    if found := shutil.which("ptxas"):
        return found
    raise ValueError("NVIDIA's assembler ptxas is not installed: make gpu-compiler.")


def assemble(function: Callable, *arguments: Any, kind: str = "h100") -> list[Kernel]:
    """Assembles the Pallas kernels of `function(*arguments)` for one GPU of `kind`, in execution order.

    Raises:
      ValueError: see `pallas_kernels.aot.gpus` and `find_ptxas`.
      jax.errors.JaxRuntimeError: if the compiler fails.
    """
    ptxas = find_ptxas()
    with tempfile.TemporaryDirectory() as folder:
        compiled = compile_for_gpu(function, *arguments, kind=kind, dump=folder)
        names = set(_TRITON.findall(compiled.executable.as_text()))
        launches = {}
        for file in Path(folder).glob("*thunk_sequence.txt"):
            for name, grid, threads, shared in _LAUNCH.findall(file.read_text()):
                if re.sub(r"__\d+$", "", name) in names:
                    launches[name] = _product(grid), _product(threads), int(shared)
        code = {}
        for file in Path(folder).glob("*.ptx"):
            text = file.read_text()
            for name in re.findall(r"\.entry (\w+)", text):
                code[name] = file, text
        return [_kernel(ptxas, name, *launch, *code[name], kind) for name, launch in launches.items()]


def _product(sizes: str) -> int:
    result = 1
    for size in sizes.split(","):
        result *= int(size)
    return result


def _kernel(
    ptxas: str, name: str, programs: int, threads: int, shared: int, file: Path, text: str, kind: str
) -> Kernel:
    command = [ptxas, "-v", f"-arch={GPUS[kind].arch}", str(file), "-o", str(file.with_suffix(".cubin"))]
    report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    registers, spilled = _USED.search(report), _SPILLED.search(report)
    assert registers is not None and spilled is not None
    tensor = {each: text.count(word) for each, word in _TENSOR.items() if word in text}
    spills = int(spilled[1]) + int(spilled[2])
    return Kernel(name, programs, threads, int(registers[1]), spills, shared, tensor)
