"""The data set of clips: names, captions, motions, splits, and the source that composes them."""

import itertools

import numpy as np
import pytest

from muse_jax.data import load_source, make_loader
from muse_jax.data.motion import DIRECTIONS, MOTIONS, moves, phrases
from muse_jax.data.motion.attribution import attribution
from muse_jax.data.motion.drawings import load_sprites, load_weather
from muse_jax.data.motion.source import COMMON_REPEATS, outlines
from muse_jax.data.motion.splits import heldout_motion, weather_split
from muse_jax.data.motion.weather import PRECIPITATION, Weather, parse_weather, thing
from muse_jax.media import VideoModality


@pytest.fixture(scope="module")
def clips(built_motion):
    names = {"train": "motion/x4", "heldout_pairs": "motion"}
    return {split: load_source(name, split, built_motion) for split, name in names.items()}


def records(source):
    return [source[index] for index in range(len(source))]


@pytest.fixture(scope="module")
def trained(clips):
    return records(clips["train"])


@pytest.mark.parametrize(
    "name, expected",
    [
        ("rain", Weather("cloudy", precipitation="rain")),
        ("clear-night", Weather("clear", "night")),
        ("overcast", Weather("overcast")),
        ("partly-cloudy-day-hail", Weather("partly cloudy", "day", precipitation="hail")),
        ("thunderstorms-night", Weather("partly cloudy", "night", "thunder")),
        ("extreme-rain", Weather("dark cloudy", precipitation="rain")),
        (
            "extreme-thunderstorms-mostly-clear-day-snow",
            Weather("mostly clear", "day", "heavy thunder", "snow"),
        ),
        ("compass-ne", None),
        ("fog-day", None),
        ("rainbow", None),
        ("starry-nights", None),
    ],
)
def test_a_name_states_its_attributes(name, expected):
    assert parse_weather(name) == expected


def test_abbreviations_of_other_names_are_spelled_out():
    assert thing("wind-direction-ne") == "wind direction northeast"
    assert thing("dust-night") == "night with dust"


def test_captions_of_weather_name_every_attribute_and_no_other():
    for thunder, precipitation in itertools.product(("", "heavy thunder"), ("", *PRECIPITATION)):
        captions = phrases.weather_captions(Weather("overcast", "night", thunder, precipitation), "line")
        for caption in captions:
            assert "overcast night" in caption and ("thunder" in caption) == bool(thunder)
            assert {word for word in PRECIPITATION if word in caption} == ({precipitation} - {""})
        assert captions[0].startswith("a line weather icon of an overcast night")


def test_each_motion_has_phrases_of_its_own():
    every = [phrase for motion in MOTIONS for phrase in phrases.MOTION_PHRASES[motion]]
    assert len(set(every)) == len(every) == 2 * len(MOTIONS)


def centroids(frames):
    """(frames, 2): mean column and row of the pixels that are not white, weighted by their difference."""
    weights = 255.0 - frames.min(axis=-1)
    rows, columns = np.indices(weights.shape[1:])
    total = weights.sum((1, 2))
    return np.stack([(weights * columns).sum((1, 2)) / total, (weights * rows).sum((1, 2)) / total], axis=1)


def test_a_drawing_moves_in_the_stated_direction_by_whole_pixels(trained):
    moved = [record for record in trained if record["direction"]]
    assert {record["direction"] for record in moved} == set(DIRECTIONS)
    for record in moved:
        steps = np.diff(centroids(record["video"]), axis=0)
        assert np.allclose(steps, steps[0], atol=1e-6)
        assert np.sign(np.round(steps[0], 6)).tolist() == list(DIRECTIONS[record["direction"]])
        assert record["direction"].replace(" ", " and ") in record["captions"][0]


@pytest.mark.parametrize("motion", MOTIONS)
def test_poses_stay_inside_their_box(motion):
    rng = np.random.default_rng(0)
    for _ in range(30):
        poses = moves.draw_poses(motion, (24, 36), (0, 0, 64, 64), rng)
        assert len(poses) == moves.FRAMES
        for pose in poses:
            assert all(pose.side / 2 - 1 <= centre <= 65 - pose.side / 2 for centre in (pose.x, pose.y))


def test_a_drawing_turns_clockwise_grows_and_fades():
    from PIL import Image

    sprite = Image.new("RGBA", (64, 64))
    sprite.paste((255, 0, 0, 255), (40, 28, 64, 36))  # at the right of the centre
    rng = np.random.default_rng(0)

    def frames(motion):
        poses = moves.draw_poses(motion, (32, 32), (0, 0, 64, 64), rng)
        return poses, np.stack([moves.draw_frame([sprite], [pose]) for pose in poses])

    poses, turned = frames("spin clockwise")
    angles = np.arctan2(*(centroids(turned) - [[poses[0].x - 0.5, poses[0].y - 0.5]]).T[::-1])
    assert np.allclose(np.diff(np.unwrap(angles)), np.pi / 4, atol=0.1)  # rows count downwards
    ink = lambda frames: (255.0 - frames.min(-1)).sum((1, 2))  # noqa: E731
    assert (np.diff(ink(frames("grow")[1])) > 0).all()
    assert (np.diff(ink(frames("shrink")[1])) < 0).all()
    assert (np.diff(ink(frames("fade")[1])) < 0).all()


def test_a_record_is_the_same_at_each_reading_and_another_composition_differs(clips):
    source = clips["train"]
    drawings = len(source) // 4
    for index in (0, drawings - 1):
        assert np.array_equal(source[index]["video"], source[index]["video"])
        assert any(
            not np.array_equal(source[index]["video"], source[index + k * drawings]["video"])
            for k in range(1, 4)
        )


def test_weather_moves_on_from_one_frame_to_the_next(trained):
    record = next(record for record in trained if record["kind"] == "weather")
    assert record["video"].shape == (8, 64, 64, 3) and record["fps"] == 8.0
    background = record["video"][:, :1, :1]
    ink = np.abs(record["video"].astype(int) - background).sum(-1) > 60
    heights = [np.nonzero(frame)[0].mean() for frame in ink]
    steps = np.diff(heights)
    # 40 units in 2 s, 106 units across 64 pixels, 8 frames a second.
    assert np.allclose(steps[steps > 0], 40 / 16 * 64 / 106, atol=0.6)


def test_the_sketch_of_weather_is_its_monochrome_drawing_at_the_same_time(trained):
    record = next(r for r in trained if r["kind"] == "weather" and r["style"] == "fill")
    assert set(np.unique(record["sketch"][0, 0])) == {255}
    shown = np.abs(record["video"].astype(int) - record["video"][:, :1, :1]).sum(-1) > 200
    black = record["sketch"].min(-1) < 60
    assert (shown == black).mean() > 0.99


def test_outlines_are_black_where_neighbours_differ():
    frames = np.full((1, 5, 5, 3), 255, np.uint8)
    frames[0, 2:, 3:, 1] = 100
    lines = outlines(frames)[0, ..., 0] == 0
    expected = np.zeros((5, 5), bool)
    expected[2, 3:] = expected[2:, 3] = True
    assert np.array_equal(lines, expected)


def test_held_out_combinations_of_weather_are_never_trained_in_any_style(clips, trained):
    held_out = {r["concept"] for r in records(clips["heldout_pairs"]) if r["kind"] == "weather"}
    kept = {r["concept"] for r in trained if r["kind"] == "weather"}
    assert held_out and not held_out & kept
    assert held_out == {name for name in held_out if weather_split(name) == "heldout_pairs"}
    attributes = ("sky", "time", "thunder", "precipitation")
    seen = [{r[name] for r in trained if r["kind"] == "weather"} for name in attributes]
    for name in held_out:
        words = [getattr(parse_weather(name), attribute) for attribute in attributes]
        assert all(word in known for word, known in zip(words, seen, strict=True))


def test_each_concept_has_one_motion_that_is_only_held_out(clips, trained):
    for record in records(clips["heldout_pairs"]):
        if record["kind"] == "move":
            assert record["motion"] == heldout_motion(record["concept"])
            assert len(record["captions"]) == 1
    moved = [record for record in trained if record["kind"] == "move"]
    assert moved and all(record["motion"] != heldout_motion(record["concept"]) for record in moved)


def test_two_drawings_move_along_one_axis_in_their_halves(trained):
    pairs = [record for record in trained if record["kind"] == "pair"]
    assert pairs
    for record in pairs:
        assert " and " in record["captions"][0] and record["direction"] == ""
        ink = record["video"].min(axis=(0, 3)) < 250
        assert ink.any()


def test_images_are_single_frames_and_their_captions_name_no_motion(built_motion):
    source = load_source("motion/images", "train", built_motion)
    assert source.fields == ("image",)
    for record in records(source):
        assert record["image"].shape == (64, 64, 3) and "video" not in record
        assert not any("ing" in caption for caption in record["captions"])


def test_the_form_weather_has_the_weather_icons_alone(built_motion):
    whole, weather = (load_source(name, "train", built_motion) for name in ("motion", "motion/weather"))
    icons = [record for record in records(whole) if record["kind"] == "weather"]
    alone = list(records(weather))
    assert {record["kind"] for record in alone} == {"weather"} and len(alone) == len(icons)
    assert sorted(record["name"] for record in alone) == sorted(record["name"] for record in icons)


def test_few_common_concepts_move_beside_all_weather_icons(built_motion):
    whole, common = (load_source(f"{name}/x4", "train", built_motion) for name in ("motion", "motion/common"))
    found = {}
    for name, source in (("whole", whole), ("common", common)):
        for record in records(source):
            kind = "weather" if record["kind"] == "weather" else "emoji"
            found.setdefault((name, kind), []).append(record["name"])
    assert set(found["common", "weather"]) == set(found["whole", "weather"])
    moved = {name for name in found["whole", "emoji"] if "red-heart" in name and " and " not in name}
    assert moved and {part for name in found["common", "emoji"] for part in name.split(" and ")} == moved
    assert len(found["common", "emoji"]) == 4 * COMMON_REPEATS * len(moved)
    assert len(found["common", "weather"]) == len(found["whole", "weather"])


def test_sketches_are_single_frames_of_lines(built_motion):
    source = load_source("motion/sketches", "train", built_motion)
    for record in records(source):
        assert record["image"].shape == (64, 64, 3) and np.ptp(record["image"], axis=2).max() < 64
    with pytest.raises(ValueError, match="use motion, motion/images or motion/sketches"):
        load_source("motion/lines", "train", built_motion)


def test_a_loader_reads_clips_with_their_sketches(clips):
    loader = make_loader(clips["train"], batch_size=4, modalities={"video": VideoModality(64, 8)}, workers=0)
    batch = next(loader)
    assert batch["video"].shape == batch["sketch"].shape == (4, 8, 64, 64, 3)


def test_only_things_of_few_words_move(motion_downloads):
    concepts = {drawing.concept for drawing in load_sprites(motion_downloads)}
    assert "old shoe" in concepts and "four o'clock" not in concepts


def test_a_missing_package_is_named_with_the_command(tmp_path):
    with pytest.raises(
        ValueError, match="lacks meteocons-svg-0.1.0.tgz: run `python -m experiments.prepare_data`"
    ):
        load_weather(tmp_path)


@pytest.mark.parametrize("name", ["motion/x0", "motion/frames", "motion/x2/images"])
def test_an_unknown_form_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="is not a form of the motion data"):
        load_source(name, "train", tmp_path)


def test_missing_data_names_the_command(tmp_path):
    with pytest.raises(ValueError, match="prepare_data --data=motion"):
        load_source("motion", "train", tmp_path)


def test_an_unknown_split_is_refused(built_motion):
    with pytest.raises(ValueError, match="motion has no split 'test'"):
        load_source("motion", "test", built_motion)


def test_the_notice_names_authors_and_licences(motion_downloads):
    text = attribution(motion_downloads)
    assert "@meteocons/svg@0.1.0\n  A. Author." in text
    assert text.count("MIT.") == 5
