"""The icons data set: names, rendering, duplicates, splits, and the stored records."""

import collections
import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from muse_jax.data.emoji.splits import is_heldout_concept
from muse_jax.data.icons import SETS, Drawing, load_drawings
from muse_jax.data.icons.attribution import attribution
from muse_jax.data.icons.drawings import read_collections
from muse_jax.data.icons.names import agreed_concepts, emoji_concept, plain_concept, split_suffix
from muse_jax.data.icons.rendering import NEAR, Rendering, count_parts, drop_near_equal, render, render_all
from muse_jax.data.icons.sets import IconSet

KEY = '<circle cx="5" cy="8" r="4"/><path d="M8 7h7v2H8z"/>'
SQUARE = '<path d="M2 2h10v10H2z"/>'


def drawing(body, name="set/key", concept="key", style="", coloured=False, box=(0, 0, 16, 16)):
    return Drawing(name, concept, style, coloured, (), body, box)


def pixels(rendering):
    return np.asarray(Image.open(io.BytesIO(rendering.png)).convert("RGBA"))


@pytest.mark.parametrize(
    "name, concept",
    [
        ("bicycle", "bicycle"),
        ("bicycle-02", "bicycle"),
        ("key2", "key"),
        ("lock-two", "lock"),
        ("animal-donkey", "donkey"),
        ("bike", "bicycle"),
        ("circle", "circle"),
        ("crossed-swords", "crossed swords"),
        ("heart-circle", None),
        ("align-left", None),
        ("chevron-down", None),
        ("letter-a", None),
        ("currency-dollar", None),
        ("3d-rotate", None),
        ("six", None),
        ("person-boarding-school-bus-stop", None),
    ],
)
def test_plain_concept(name, concept):
    assert plain_concept(name) == concept


def test_a_suffix_gives_the_weight_or_excludes_the_drawing():
    solar = next(icon_set for icon_set in SETS if icon_set.prefix == "solar")
    assert split_suffix("cloud-sun-bold", solar) == ("cloud-sun", "solid")
    assert split_suffix("cloud-sun-bold-duotone", solar) == ("cloud-sun", "duotone")
    assert split_suffix("cloud-sun-broken", solar) == ("cloud-sun", None)
    assert split_suffix("cloud-sun", solar) == ("cloud-sun", None)


def test_emoji_of_letters_arrows_and_single_colour_flags_are_left_out():
    assert emoji_concept("red heart", True) == "red heart"
    assert emoji_concept("automobile", True) == "car"
    for label in ("keycap 3", "right arrow", "a button (blood type)", "input latin letters"):
        assert emoji_concept(label, True) is None
    assert emoji_concept("flag of france", True) and not emoji_concept("flag of france", False)


def test_concepts_need_a_trusted_set_or_two_families_and_no_brand():
    trusted, one = IconSet("trusted", {"": ""}, trusted=True), IconSet("one", {"": ""})
    twin, two = IconSet("twin", {"": ""}, family="one"), IconSet("two", {"": ""})
    named = [(trusted, "rune"), (one, "lamp"), (two, "lamp"), (one, "gadget"), (twin, "gadget")]
    named += [(one, "acme inc"), (two, "acme inc"), (trusted, "apple"), (one, "apple")]
    assert agreed_concepts(named, ["acme-inc", "apple"]) == {"rune", "lamp", "apple"}


def test_drawings_have_their_concepts_and_weights(icons_downloads):
    drawings = {drawing.name: drawing for drawing in load_drawings(icons_downloads)}
    concepts = {drawing.concept for drawing in drawings.values()}
    assert {"key", "star", "lamp", "red heart"} <= concepts
    assert concepts.isdisjoint({"acme", "gadget", "align left"})
    assert drawings["mdi/star-outline"].style == "outline" and drawings["mdi/lamp"].style == "solid"
    assert drawings["noto/red-heart"].tags == ("love",) and drawings["noto/red-heart"].coloured
    assert drawings["lucide/lamp-2"].concept == "lamp"


def test_a_missing_set_or_tarball_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"iconify-json-2.*run `python -m experiments.prepare_data"):
        load_drawings(tmp_path)


@pytest.mark.parametrize("box", [(0, 0, 16, 16), (-8, 0, 40, 16), (0, -10, 16, 60)])
def test_rendering_fills_the_square_and_is_centred(box):
    alpha = pixels(render(drawing(KEY, box=box)))[..., 3]
    assert alpha.shape == (128, 128)
    rows, columns = np.flatnonzero((alpha > 64).any(1)), np.flatnonzero((alpha > 64).any(0))
    assert abs(columns[0] - 4) <= 2 and abs(columns[-1] - 123) <= 2, "the key is wider than high"
    assert abs(rows[0] + rows[-1] - 127) <= 4


def test_single_colour_drawings_are_stored_as_alpha_and_coloured_ones_as_rgba():
    faint = '<path opacity="0.4" d="M2 2h10v5H2z"/><path opacity="0.8" d="M2 7h10v5H2z"/>'
    mask = pixels(render(drawing(f'<g fill="currentColor">{faint}</g>')))
    assert mask[..., :3].max() == 0 and mask[0, 0, 3] == 0
    assert abs(int(mask[30, 64, 3]) - 128) <= 2 and mask[90, 64, 3] == 255, "the strongest part is opaque"
    art = pixels(render(drawing(f'<g fill="#d22040">{SQUARE}</g>', coloured=True)))
    assert tuple(art[64, 64]) == (0xD2, 0x20, 0x40, 255) and art[0, 0, 3] == 0


def test_invisible_drawings_are_left_out():
    assert render(drawing('<path fill="none" d="M0 0h9v9z"/>')) is None


def test_processes_render_the_same_drawings_in_the_same_order():
    drawings = [drawing(SQUARE, f"set/square-{i}", box=(0, 0, 16 + i, 16)) for i in range(70)]
    drawings[7] = drawing('<path fill="none" d="M0 0h9v9z"/>', "set/empty")
    alone, together = render_all(drawings, processes=1), render_all(drawings, processes=2)
    assert [r.drawing for r in alone] == drawings[:7] + drawings[8:]
    assert [(r.drawing, r.png, r.parts) for r in alone] == [(r.drawing, r.png, r.parts) for r in together]


def test_parts_are_counted_across_small_gaps():
    alpha = np.zeros((128, 128), np.uint8)
    alpha[20:40, 20:40] = alpha[20:40, 46:66] = alpha[90:110, 20:40] = 255
    assert count_parts(alpha, 12) == 2
    assert count_parts(alpha, 4) == 3


def gist_only(gist, **kwargs):
    return Rendering(drawing("", **kwargs), b"", np.asarray(gist, np.uint8), 1)


def test_near_duplicates_are_found_independently_of_padding_and_names():
    first = render(drawing(KEY, "one/key"))
    padded = render(drawing(KEY, "two/latch", "latch", box=(-6, -6, 28, 28)))
    other = render(drawing(SQUARE, "two/square", "square"))
    assert drop_near_equal([first, padded, other]) == [first, other]
    bold = render(drawing(KEY, "one/key-bold", "key", "bold"))
    assert drop_near_equal([first, bold]) == [first, bold], "weights of one icon may be alike"


def test_near_duplicates_are_defined_by_the_root_mean_square_of_gists():
    rng = np.random.default_rng(0)
    centres = rng.integers(40, 200, (60, 256))
    gists = [c + rng.integers(-spread, spread + 1, 256) for c in centres for spread in (0, 8, 14)]
    renderings = [gist_only(g, name=f"set{i}/x") for i, g in enumerate(gists)]
    kept = []
    for rendering in renderings:
        differences = [k.gist.astype(float) - rendering.gist for k in kept]
        if all(np.sqrt(np.mean(d**2)) >= NEAR for d in differences):
            kept.append(rendering)
    assert 60 < len(kept) < 180
    assert [r.drawing.name for r in drop_near_equal(renderings)] == [r.drawing.name for r in kept]


def test_coloured_drawings_and_masks_are_not_compared():
    art, mask = gist_only([9] * 256, coloured=True), gist_only([9] * 256)
    assert drop_near_equal([art, mask]) == [art, mask]
    twin = dataclasses.replace(mask, drawing=drawing("", "other/x"))
    assert drop_near_equal([mask, twin]) == [mask]


def stored(data_dir):
    import tensorflow_datasets as tfds

    from muse_jax.data.icons.icons_dataset_builder import Builder

    builder = Builder(data_dir=str(data_dir), file_format="array_record")
    decoders = {"image": tfds.decode.SkipDecoding()}
    return {split: list(builder.as_data_source(split, decoders=decoders)) for split in builder.info.splits}


def test_stored_splits_have_their_properties(built_icons):
    records = stored(built_icons)
    concepts = {split: {r["concept"].decode() for r in rows} for split, rows in records.items()}
    for split, names in concepts.items():
        assert all(is_heldout_concept(name) == split.endswith("heldout_concepts") for name in names)
    styles = collections.defaultdict(set)
    for record in records["art"]:
        styles[record["concept"]].add(record["style"])
    for record in records["art_heldout_pairs"]:
        assert styles[record["concept"]] and record["style"] not in styles[record["concept"]]
    assert len(records["masks"]) > 12 and len(records["art"]) > 12
    assert all(Image.open(io.BytesIO(r["image"])).mode == "LA" for r in records["masks"])
    assert all(Image.open(io.BytesIO(r["image"])).mode == "RGBA" for r in records["art"])


def test_the_attribution_has_author_and_licence_of_every_set(icons_downloads):
    text = attribution(read_collections(icons_downloads))
    for icon_set in SETS:
        assert f"({icon_set.prefix})\n  The {icon_set.prefix} authors." in text
    assert text.count("MIT (MIT). https://example.org/licence") == len(SETS)
    with pytest.raises(ValueError, match="no set 'bi'"):
        attribution({})


def test_notice_attributes_every_set():
    notice = Path("NOTICE").read_text("utf-8")
    assert all(f"({icon_set.prefix})\n" in notice for icon_set in SETS)
    built = Path("data/icons/1.0.0/NOTICE")
    assert not built.is_file() or built.read_text("utf-8") in notice
