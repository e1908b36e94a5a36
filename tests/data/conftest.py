"""Small emoji and icon packages: drawings made here, in the layout of the npm tarballs."""

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
    """A circle or a square whose size and colour depend on style and number, all different."""
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
    if style == "twemoji":  # one drawing of two concepts, kept under the shorter name
        icons["shape-number-10"] = icons["shape-number-1"]
    if style == "emojione":  # matched by name
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
    """The data_dir of the small emoji data set, built by the script's builder."""
    import tensorflow_datasets as tfds

    from muse_jax.data.emoji.emoji_dataset_builder import Builder

    data_dir = tmp_path_factory.mktemp("data")
    builder = Builder(config="px128", data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=str(downloads)))
    return data_dir


ICON_SHAPES = {
    "key": '<circle cx="5" cy="8" r="4"/><path d="M8 7h7v2H8z"/>',
    "star": '<path d="M8 1l2 5h5l-4 3 2 6-5-4-5 4 2-6-4-3h5z"/>',
    "bicycle": '<circle cx="4" cy="11" r="3"/><circle cx="12" cy="11" r="3"/><path d="M4 10h8v2H4z"/>',
    "bell": '<path d="M8 1a5 6 0 0 0-5 6v5h10V7a5 6 0 0 0-5-6z"/>',
    "sun": '<circle cx="8" cy="8" r="4"/><path d="M7 0h2v2H7zM7 14h2v2H7z"/>',
    "anchor": '<path d="M7 1h2v13H7zM2 9h2c0 3 8 3 8 0h2c0 7-12 7-12 0z"/>',
    **{
        f"relic-{letter}x": f'<path d="M{i % 8} 1h{8 - i % 8}v{14 - i // 2}H1z"/>'
        for i, letter in enumerate("abcdefghijno")
    },
}


def one_colour(shapes):
    return {name: {"body": f'<g fill="currentColor">{body}</g>'} for name, body in shapes.items()}


def coloured(shapes, colour):
    mark = '<path fill="#123" d="M0 0h3v2H0z"/>'
    return {name: {"body": f'<g fill="{colour}">{body}{mark}</g>'} for name, body in shapes.items()}


def path(data):
    return f'<path d="{data}"/>'


@pytest.fixture(scope="session")
def icons_downloads(tmp_path_factory):
    """Tarballs of the icon package, with a few drawings in eight of its sets, and of the labels."""
    from muse_jax.data.icons import sets

    contents = {prefix: {} for prefix in (*(s.prefix for s in sets.SETS), *sets.BRAND_SETS)}
    contents["game-icons"] = one_colour(ICON_SHAPES)
    contents["tabler"] = one_colour({"align-left": path("M0 0h9v2H0z"), "acme": path("M0 0h9v9H0z")})
    contents["lucide"] = one_colour(
        {"acme": path("M3 0h9v9z"), "lamp-2": path("M3 3h9v9z"), "gadget": path("M0 5h9v9H0z")}
    )
    contents["lucide-lab"] = one_colour({"gadget": path("M1 1h9v9z"), "align-left": path("M9 0h4v9z")})
    contents["mdi"] = one_colour({"lamp": path("M1 1v9h9z"), "star-outline": path("M1 9v6h9z")})
    contents["simple-icons"] = one_colour({"acme": path("M0 0h1v1z")})
    contents["icon-park"] = coloured(ICON_SHAPES, "#e33")
    contents["flat-color-icons"] = coloured(ICON_SHAPES, "#3a3")
    contents["noto"] = coloured({"red-heart": path("M8 15C-6 6 3-3 8 4c5-7 14 2 0 11")}, "#d22")
    files = {
        f"json/{prefix}.json": {"prefix": prefix, "icons": icons, "width": 16, "height": 16}
        for prefix, icons in contents.items()
    }
    files["json/noto.json"]["chars"] = {"2764": "red-heart"}
    licence = {"title": "MIT", "spdx": "MIT", "url": "https://example.org/licence"}
    files["collections.json"] = {
        prefix: {"name": prefix.title(), "author": {"name": f"The {prefix} authors"}, "license": licence}
        for prefix in contents
    }
    folder = tmp_path_factory.mktemp("icons_downloads")
    write_tarball(folder, sets.ICONS, files)
    label = {"label": "red heart", "hexcode": "2764-FE0F", "tags": ["love"], "group": 8}
    write_tarball(folder, LABELS, {"en/data.json": [label], "meta/groups.json": {"groups": {"8": "symbols"}}})
    return folder


@pytest.fixture(scope="session")
def built_icons(icons_downloads, tmp_path_factory):
    """The data_dir of the small icons data set."""
    import tensorflow_datasets as tfds

    from muse_jax.data.icons.icons_dataset_builder import Builder

    data_dir = tmp_path_factory.mktemp("icons_data")
    builder = Builder(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(icons_downloads))
    )
    return data_dir


WEATHER = (
    "rain",
    "overcast-day",
    "overcast-day-snow",  # in heldout_pairs; each of its words is in another name
    "mostly-clear-day-snow",
    "mostly-clear-night-hail",
    "compass-ne",
)


def weather_svg(style, number):
    """A block that falls and turns, in a colour of its style."""
    colour = "#000" if style == "monochrome" else COLOURS[number % len(COLOURS)]
    fall = (
        '<animateTransform attributeName="transform" type="translate" values="0 0;0 40" dur="2s" begin="0s" '
    )
    return (
        '<svg viewBox="0 0 128 128" fill="none" xmlns="http://www.w3.org/2000/svg">'
        f'<rect x="{30 + number}" y="30" width="{16 + number}" height="16" fill="{colour}">'
        f'{fall}repeatCount="indefinite"/></rect></svg>'
    )


THINGS = ("ball", "cup", "red heart", "old shoe", "kite", "lamp", "pear", "drum", "boat", "four o'clock")


@pytest.fixture(scope="session")
def motion_downloads(tmp_path_factory):
    """Tarballs of a few emoji in four styles and of a few weather icons."""
    from muse_jax.data.motion.weather import ICONS
    from muse_jax.data.motion.weather import STYLES as WEATHER_STYLES

    folder = tmp_path_factory.mktemp("motion_downloads")
    for style, package in STYLES.items():
        icons = {slug(thing): {"body": shape(style, i)} for i, thing in enumerate(THINGS)}
        codes = {f"{0x2600 + i:x}": slug(thing) for i, thing in enumerate(THINGS)}
        files = {
            "icons.json": {"prefix": style, "icons": icons, "width": 16, "height": 16},
            "chars.json": codes,
        }
        info = {"author": {"name": f"The {style} authors"}, "license": {"spdx": "MIT"}}
        write_tarball(folder, package, {**files, "info.json": info, "package.json": {"license": "MIT"}})
    labels = [
        {"label": thing, "hexcode": f"{0x2600 + i:X}", "tags": [], "group": 0}
        for i, thing in enumerate(THINGS)
    ]
    groups = {"groups": {"0": "objects"}}
    write_tarball(folder, LABELS, {"en/data.json": labels, "meta/groups.json": groups})
    with tarfile.open(folder / tarball_name(ICONS), "w:gz") as archive:
        files = {
            f"{s}/{name}.svg": weather_svg(s, i) for s in WEATHER_STYLES for i, name in enumerate(WEATHER)
        }
        files["package.json"] = json.dumps({"license": "MIT", "author": {"name": "A. Author"}})
        for name, text in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return folder


@pytest.fixture(scope="session")
def built_motion(motion_downloads, tmp_path_factory):
    """The data_dir of the small data set of clips."""
    import tensorflow_datasets as tfds

    from muse_jax.data.motion.motion_dataset_builder import Builder

    data_dir = tmp_path_factory.mktemp("motion_data")
    builder = Builder(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(motion_downloads))
    )
    return data_dir
