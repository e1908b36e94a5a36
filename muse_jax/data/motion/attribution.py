"""Attribution of the drawings of the data set `motion`."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from muse_jax.data.emoji.artwork import STYLES, tarball_name
from muse_jax.data.motion.weather import ICONS

_HEADER = """The data set "motion", which experiments/prepare_data.py builds, consists of drawings of the
packages below. The drawings are fetched, not included in this repository. They are rendered as pixels: the
weather icons at successive times of their animations, the emoji moved, turned, scaled and faded; nothing else
was changed.
"""


def attribution(downloads: Path) -> str:
    """Text for NOTICE: author, source and licence of each package, read from the package itself.

    Raises:
      ValueError: a package is missing or states no licence.
    """
    entries = []
    for package in (ICONS, *STYLES.values()):
        tarball = downloads / tarball_name(package)
        if not tarball.is_file():
            raise ValueError(f"{downloads} lacks {tarball.name}: run `python -m experiments.prepare_data`.")
        with tarfile.open(tarball) as archive:
            entries.append(_entry(package, archive))
    return "\n".join([_HEADER, *entries]) + "\n"


def _entry(package: str, archive: tarfile.TarFile) -> str:
    about = _read(archive, "package.json")
    licence, author = about.get("license"), about.get("author", {})
    name = author if isinstance(author, str) else author.get("name", "")
    info = _read(archive, "info.json")  # of icon sets: the drawings' own author and licence
    if info:
        licence, name = info["license"]["spdx"], info["author"]["name"].rstrip(".")
    if not licence:
        raise ValueError(f"{package} states no licence: leave it out.")
    source = about.get("repository", {}).get("url") or about.get("homepage", "")
    source = info.get("author", {}).get("url", source) if info else source
    return f"{package}\n  {name}. {source}\n  {licence}."


def _read(archive: tarfile.TarFile, file: str) -> dict:
    try:
        content = archive.extractfile(f"package/{file}")
    except KeyError:
        return {}
    assert content is not None
    return json.load(content)
