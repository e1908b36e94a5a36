"""Downloads vector sets with npm and builds `emoji`, `icons` and `motion`.

python -m experiments.prepare_data
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from absl import flags
from tqdm import tqdm

from experiments import apps

_DATA = flags.DEFINE_multi_enum(
    "data", ["emoji", "icons", "motion"], ["emoji", "icons", "motion"], "Data sets to build."
)
_DATA_DIR = flags.DEFINE_string("data_dir", "data", "Folder that the data sets are built in.")
_DOWNLOADS = flags.DEFINE_string(
    "downloads",
    None,
    "Folder of the npm tarballs; missing ones are downloaded. Default: DATA_DIR/downloads.",
)
_SIZES = flags.DEFINE_multi_integer(
    "size", [128], "Image sizes of emoji to build: 128, 192, 256.", lower_bound=1
)


def fetch(package: str, downloads: Path) -> Path:
    """Path of the tarball of "name@version" in `downloads`; downloads it with `npm pack` if it is missing.

    Raises:
      ValueError: npm is not installed, or could not download the package.
    """
    from muse_jax.data.emoji.artwork import tarball_name

    target = downloads / tarball_name(package)
    if target.is_file():
        return target
    if shutil.which("npm") is None:
        raise ValueError(
            f"{target} is missing and npm is not installed: install npm, or give the folder of tarballs with "
            "--downloads."
        )
    downloads.mkdir(parents=True, exist_ok=True)
    command = ["npm", "pack", "--loglevel=error", "--pack-destination", str(downloads), package]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0 or not target.is_file():
        lines = [line for line in result.stderr.splitlines() if line.strip() and " error code " not in line]
        reason = lines[0] if lines else "no reason given"
        raise ValueError(
            f"npm could not download {package} ({reason}): check the network, or use --downloads."
        )
    return target


def build(builder: Any, title: str, downloads: Path) -> None:
    """Builds a data set unless it exists, and prints the sizes of its splits."""
    import tensorflow_datasets as tfds

    start = time.monotonic()
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=downloads.resolve()))
    counts = ", ".join(f"{name} {split.num_examples}" for name, split in builder.info.splits.items())
    print(f"{title}: {counts} ({time.monotonic() - start:.0f} s) in {builder.data_dir}")


def main() -> None:
    """Downloads the packages and builds the data sets, emoji in each size."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from muse_jax.data.emoji import artwork, emoji_dataset_builder
    from muse_jax.data.icons import icons_dataset_builder, sets
    from muse_jax.data.icons.attribution import attribution
    from muse_jax.data.icons.drawings import read_collections
    from muse_jax.data.motion import attribution as motion_attribution
    from muse_jax.data.motion import drawings, motion_dataset_builder

    emoji, icons, motion = (name in _DATA.value for name in ("emoji", "icons", "motion"))
    known = emoji_dataset_builder.Builder.builder_configs
    unknown = [size for size in _SIZES.value if f"px{size}" not in known]
    if unknown:
        raise ValueError(f"--size={unknown[0]} is not built: use 128, 192 or 256.")
    downloads = Path(_DOWNLOADS.value or Path(_DATA_DIR.value) / "downloads")
    packages = dict.fromkeys(
        (artwork.PACKAGES if emoji else ())
        + (sets.PACKAGES if icons else ())
        + (drawings.PACKAGES if motion else ())
    )
    for package in tqdm(packages, desc="fetch", unit="package"):
        fetch(package, downloads)
    stored = {"data_dir": _DATA_DIR.value, "file_format": "array_record"}
    for size in _SIZES.value if emoji else ():
        builder = emoji_dataset_builder.Builder(config=f"px{size}", **stored)
        build(builder, f"emoji at {size} px", downloads)
    if icons:
        builder = icons_dataset_builder.Builder(**stored)
        build(builder, "icons", downloads)
        (Path(builder.data_dir) / "NOTICE").write_text(
            attribution(read_collections(downloads)), encoding="utf-8"
        )
    if motion:
        builder = motion_dataset_builder.Builder(**stored)
        build(builder, "motion", downloads)
        (Path(builder.data_dir) / "NOTICE").write_text(
            motion_attribution.attribution(downloads), encoding="utf-8"
        )


if __name__ == "__main__":
    apps.run(main, stopped="Stopped; run the same command to build the rest.")
