"""Package metadata; `make demo` and `make test` install from here."""

from pathlib import Path

from setuptools import find_packages, setup

RUNTIME = [
    "jax>=0.10,<0.13",
    "flax>=0.12,<0.13",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.11,<0.13",
    "ml_collections>=1.0,<2",
    "absl-py>=2.1",
    "einops>=0.8",
    "jaxtyping>=0.3",
    "numpy>=1.26",
    "pillow>=10",
    "safetensors>=0.5",
    "scipy>=1.13",
    "sentencepiece>=0.2",
    "tokenizers>=0.21",
    "tqdm>=4.66",
]
# tfds reads array_record without TensorFlow only where importlib_resources is installed.
TRAIN = [
    "grain>=0.2.10,<0.3",
    "tensorflow-datasets==4.9.10",
    "importlib_resources>=6",
    "array_record>=0.8",
    "resvg-py==0.5.0",
    "tensorboardX>=2.6,<3",
]
# Brings an ffmpeg with it.
MP4 = ["imageio[ffmpeg]>=2.34"]
# With which jax.export writes and reads programs.
SERVE = ["flatbuffers>=24"]
TEST = [
    "matplotlib>=3.9",
    "pytest>=8",
    "pytest-xdist>=3.6",
    "hypothesis>=6.100",
    "import-linter==2.17",
    "ruff==0.17.6",
    "mypy==2.4.1",
]
# Carries the TPU compiler, with which tests compile kernels and whole steps without a TPU.
TPU_COMPILER = ["libtpu==0.0.52; sys_platform == 'linux' and platform_machine == 'x86_64'"]

# The one line of the package that names its version, read without importing the package.
_LINES = (Path(__file__).parent / "muse_jax" / "__init__.py").read_text(encoding="utf-8").splitlines()
VERSION = next(line.split('"')[1] for line in _LINES if line.startswith("__version__"))

setup(
    name="muse_jax",
    version=VERSION,
    description="Images from text by masked and autoregressive token transformers, in JAX and Flax",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    # experiments and configs run from a checkout: as installed packages their names would be too common.
    packages=find_packages(include=["muse_jax*", "pallas_kernels*"]),
    package_data={
        "muse_jax": ["checkpoints/*/*", "data/icons/left_out.txt", "py.typed"],
        "pallas_kernels": ["*/tuning.json"],
    },
    install_requires=RUNTIME,
    extras_require={
        "tpu": ["jax[tpu]>=0.10,<0.13"],
        "cuda": ["jax[cuda12]>=0.10,<0.13"],
        "train": TRAIN,
        "mp4": MP4,
        "serve": SERVE,
        "plan": TPU_COMPILER,
        "test": TRAIN + MP4 + SERVE + TEST + TPU_COMPILER,
    },
)
