"""A small copy of the emoji packages: drawings made here, in the layout of the npm tarballs."""

import io
import json
import tarfile

import pytest

from muse_jax.data.emoji.artwork import LABELS, STYLES, tarball_name

HEART = '<path fill="#d22" d="M8 15C-6 6 3-3 8 4c5-7 14 2 0 11"/>'
COLOURS = ("#c33", "#3c3", "#33c", "#cc3", "#3cc", "#c3c")
CODES = {
    "2764-FE0F": ("red heart", ["love", "valentine"], 8),
    "1F1EB-1F1F7": ("flag: France", ["FR"], 9),
    "1F468-200D-1F9B0": ("man: red hair", ["man"], 1),
    "1F9B0": ("red hair", [], 2),
    "1F449": ("pointing right", [], 1),
    "1F448": ("pointing left", [], 1),
    **{f"2600-{i:04X}": (f"shape number {i}", [f"tag {i}"], 7) for i in range(60)},
}


def slug(label):
    return label.lower().replace(": ", "-").replace(" ", "-")


def shape(style, number):
    """A circle or a square whose size and colour depend on style and number: no two the same."""
    colour = COLOURS[number % len(COLOURS)]
    size = 3 + number / 20
    if style in ("noto", "emojione"):
        return f'<circle cx="8" cy="8" r="{size}" fill="{colour}"/>'
    return f'<rect x="1" y="2" width="{2 * size}" height="{size}" fill="{colour}"/>'


def write_tarball(folder, package, files):
    with tarfile.open(folder / tarball_name(package), "w:gz") as archive:
        for name, content in files.items():
            data = json.dumps(content).encode()
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def icon_files(style):
    icons = {slug(label): {"body": shape(style, i)} for i, (label, _, _) in enumerate(CODES.values())}
    codes = {code.lower().replace("-fe0f", ""): slug(label) for code, (label, _, _) in CODES.items()}
    icons["red-heart"] = {"body": HEART}
    icons["pointing-left"] = {"body": '<rect width="6" height="16" fill="#000"/>'}
    del icons["pointing-right"]
    icons["waving-light-skin-tone"] = {"body": '<rect width="9" height="9"/>'}
    codes["1f44b-1f3fb"] = "waving-light-skin-tone"
    icon_set = {"prefix": style, "icons": icons, "width": 16, "height": 16}
    icon_set["aliases"] = {"pointing-right": {"parent": "pointing-left", "hFlip": True}}
    files = {"icons.json": icon_set, "chars.json": codes}
    if style == "twemoji":  # one drawing for two concepts: kept under the shorter name
        icons["shape-number-10"] = icons["shape-number-1"]
    if style == "emojione":  # joined by name
        icons["flag-for-france"] = icons.pop("flag-france")
        del files["chars.json"]
    return files


@pytest.fixture(scope="session")
def downloads(tmp_path_factory):
    folder = tmp_path_factory.mktemp("downloads")
    for style, package in STYLES.items():
        write_tarball(folder, package, icon_files(style))
    labels = [
        {"label": label, "hexcode": code, "tags": tags, "group": group}
        for code, (label, tags, group) in CODES.items()
    ]
    groups = {
        str(i): name
        for i, name in enumerate(
            [
                "faces",
                "people",
                "component",
                "animals",
                "food",
                "travel",
                "fun",
                "objects",
                "symbols",
                "flags",
            ]
        )
    }
    write_tarball(folder, LABELS, {"en/data.json": labels, "meta/groups.json": {"groups": groups}})
    return folder


@pytest.fixture(scope="session")
def built(downloads, tmp_path_factory):
    """The small emoji data set, built by the script's own builder; gives its data_dir."""
    import tensorflow_datasets as tfds

    from muse_jax.data.emoji.emoji_dataset_builder import Builder

    data_dir = tmp_path_factory.mktemp("data")
    builder = Builder(config="px128", data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(downloads)))
    return data_dir
