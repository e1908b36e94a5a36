"""GPU descriptions for XLA, to compile for a GPU that is not present.

The figures are from NVIDIA's data sheets and CUDA's device queries, for the SXM parts.
"""

from dataclasses import dataclass

# Text form of XLA's GpuTargetConfigProto. Threads, grid and registers are the same for all of these GPUs.
_TARGET = """
gpu_device_info {{
  cuda_compute_capability {{ major: {gpu.major} feature_extension: {features} }}
  core_count: {gpu.cores} fpus_per_core: {gpu.fpus} clock_rate_ghz: {gpu.clock_ghz}
  threads_per_warp: 32 threads_per_block_limit: 1024 threads_per_core_limit: 2048
  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_block_limit: 65536 registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: {gpu.block_shared} shared_memory_per_core: {gpu.core_shared}
  l2_cache_size: {gpu.l2} memory_bandwidth: {gpu.bandwidth} device_memory_size: {gpu.memory}
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
device_description_str: "{gpu.name}"
"""


@dataclass(frozen=True)
class GPU:
    """GPU description.

    Fields:
      name: JAX's `device_kind`.
      major: of the compute capability; the minor number is 0.
      cores: streaming multiprocessors.
      fpus: float32 units per streaming multiprocessor.
      clock_ghz: boost clock.
      block_shared, core_shared: maximum bytes of shared memory per block and per multiprocessor.
      l2: bytes of level-2 cache.
      bandwidth: bytes per second of the memory.
      memory: bytes.
    """

    name: str
    major: int
    cores: int
    fpus: int
    clock_ghz: float
    block_shared: int
    core_shared: int
    l2: int
    bandwidth: int
    memory: int

    @property
    def arch(self) -> str:
        """Architecture for the assembler; Hopper's tensor cores need the accelerated features of sm_90a."""
        return "sm_90a" if self.major == 9 else f"sm_{self.major}0"

    def target(self) -> str:
        """Text form of XLA's target config."""
        return _TARGET.format(gpu=self, features="ACCELERATED_FEATURES" if self.major == 9 else "NONE")


_HOPPER = (9, 132, 128, 1.98, 232_448, 233_472, 50 * 2**20)
GPUS = {
    "a100": GPU(
        "NVIDIA A100-SXM4-80GB",
        *(8, 108, 64, 1.41, 166_912, 167_936, 40 * 2**20),
        bandwidth=2_039_040_000_000,
        memory=85_100_068_864,
    ),
    "h100": GPU("NVIDIA H100 80GB HBM3", *_HOPPER, bandwidth=3_352_320_000_000, memory=84_942_979_072),
    "h200": GPU("NVIDIA H200", *_HOPPER, bandwidth=4_800_000_000_000, memory=151_397_597_184),
}
