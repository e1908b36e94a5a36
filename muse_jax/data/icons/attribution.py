"""Attribution of the icon sets, generated from the metadata of the icon package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from muse_jax.data.icons.sets import ICONS, LABELS, SETS

_HEADER = """The data set "icons", which experiments/prepare_data.py builds, consists of drawings of the sets
below, fetched as the npm package {icons}. Labels and tags of emoji are those of
{labels} (Copyright Miles Johnson, MIT License). The drawings are fetched, not included in this
repository. They are rendered as pixels; those of one colour are composed with colours, sizes and places;
nothing else was changed.
"""


def attribution(collections: Mapping[str, Mapping[str, Any]]) -> str:
    """Text for NOTICE: title, author, source and licence of each set in `SETS`.

    Args:
      collections: prefix -> entry of the icon package's `collections.json`.

    Raises:
      ValueError: the package does not have a set.
    """
    entries = []
    for prefix in sorted({icon_set.prefix for icon_set in SETS}):
        if prefix not in collections:
            raise ValueError(f"the icon package has no set {prefix!r}: fetch {ICONS}.")
        info = collections[prefix]
        author, licence = info["author"], info["license"]
        name = author["name"].rstrip(".")
        source = f" {author['url']}" if "url" in author else ""
        entries.append(
            f"{info['name']} ({prefix})\n"
            f"  {name}.{source}\n"
            f"  {licence['title']} ({licence['spdx']}). {licence.get('url', '')}".rstrip()
        )
    header = _HEADER.format(icons=ICONS.replace("@2", " 2"), labels=LABELS.replace("@", " "))
    return "\n".join([header, *entries]) + "\n"
