"""Measures of clips, against formulas and clips whose motion is known."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from muse_jax.data.motion import DIRECTIONS, moves
from muse_jax.evaluation import clip_distance, clips, motioneval, prediction
from muse_jax.evaluation.evaluators import Context, make_evaluator
from muse_jax.evaluation.frechet import frechet_distance
from muse_jax.interop.i3d import convert_i3d
from muse_jax.nn.i3d import I3D
from muse_jax.sharding.partitioning import one_device_mesh
from tests.nn.i3d_state import random_state


def block_clip(step, frames=8, background=255):
    clip = np.full((frames, 64, 64, 3), background, np.uint8)
    for frame in range(frames):
        x, y = 26 + step[0] * frame, 26 + step[1] * frame
        clip[frame, y : y + 12, x : x + 12] = (200, 30, 90)
    return clip


def mean_colours(images):
    """A stand-in for the network: features that are each image's mean colours."""
    padded = np.zeros((len(images), clips.FEATURE_DIM), np.float32)
    padded[:, :3] = np.asarray(images, np.float32).mean((1, 2))
    return padded


def test_features_are_the_mean_and_the_mean_absolute_difference_over_frames(monkeypatch):
    monkeypatch.setattr(clips, "extract_features", mean_colours)
    videos = np.random.default_rng(0).integers(0, 256, (3, 4, 8, 8, 3)).astype(np.uint8)
    found = clips.clip_features(videos)
    assert found.shape == (3, clips.CLIP_DIM)
    colours = videos.astype(np.float64).mean((2, 3))
    assert np.allclose(found[:, :3], colours.mean(1), rtol=1e-5)
    change = [sum(abs(clip[i + 1] - clip[i]) for i in range(3)) / 3 for clip in colours]
    assert np.allclose(found[:, clips.FEATURE_DIM :][:, :3], change, rtol=1e-4)
    assert (clips.clip_features(videos[:, :1])[:, clips.FEATURE_DIM :] == 0).all()


@pytest.mark.parametrize("background", [255, 30])
def test_the_direction_is_the_step_of_the_centroid(background):
    for name, step in DIRECTIONS.items():
        assert clips.direction_of(block_clip(step, background=background)) == name


def test_what_stands_still_or_is_not_seen_has_no_direction():
    assert clips.direction_of(block_clip((0, 0))) == ""
    assert clips.direction_of(np.full((8, 64, 64, 3), 255, np.uint8)) == ""


def test_noise_and_frames_that_show_nothing_do_not_change_the_direction():
    clip = block_clip((2, 0)).astype(int) + np.random.default_rng(0).integers(-10, 11, (8, 64, 64, 3))
    clip = np.clip(clip, 0, 255).astype(np.uint8)
    clip[3] = 255
    assert clips.direction_of(clip) == "right"


def test_the_direction_of_every_move_of_the_data_set_is_found():
    from PIL import Image

    sprite = Image.new("RGBA", (64, 64))
    sprite.paste((20, 90, 200, 255), (4, 10, 60, 50))
    rng = np.random.default_rng(0)
    for name in moves.MOTIONS:
        poses = moves.draw_poses(name, moves.SINGLE_SIDES, (0, 0, 64, 64), rng)
        clip = np.stack([moves.draw_frame([sprite], [pose]) for pose in poses])
        if name in DIRECTIONS or name in ("still", "fade"):
            assert clips.direction_of(clip) == (name if name in DIRECTIONS else "")


def test_the_distance_is_the_frechet_distance_of_the_moments():
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(50, 5)), rng.normal(size=(40, 5)) * 2 + 1
    expected = frechet_distance(first.mean(0), np.cov(first.T), second.mean(0), np.cov(second.T))
    assert clip_distance.clip_distance(first, second) == pytest.approx(expected)
    assert clip_distance.clip_distance(first, first) == pytest.approx(0, abs=1e-6)


def test_the_psnr_of_later_frames_is_that_of_the_formula():
    rng = np.random.default_rng(0)
    real, made = (rng.integers(0, 256, (2, 4, 6, 6, 3)).astype(np.uint8) for _ in range(2))
    errors = ((real[:, 1:].astype(float) - made[:, 1:]) ** 2).mean((2, 3, 4))
    expected = (10 * np.log10(255**2 / errors)).mean(1)
    assert np.allclose(prediction.frame_psnr(jnp.array(made), jnp.array(real), 1), expected, rtol=1e-5)


def test_copying_repeats_the_last_given_frame():
    clip = np.random.default_rng(0).integers(0, 256, (1, 5, 2, 2, 3)).astype(np.uint8)
    copied = np.asarray(prediction.copy_last(jnp.array(clip), 2))
    assert (copied[:, :2] == clip[:, :2]).all()
    assert (copied[:, 2:] == clip[:, 1:2]).all()


def record(kind="weather", **labels):
    return {
        **dict.fromkeys(("direction", "sky", "time", "thunder", "precipitation"), ""),
        "kind": kind,
        "style": "line",
        "concept": "rain",
        **labels,
    }


WEATHER = [("day", 40), ("night", 200)]


def weather_records(count):
    """Clips whose level tells the time and whose red tells the style."""
    rng, records = np.random.default_rng(1), []
    for i in range(count):
        time, level = WEATHER[i % 2]
        style = ("line", "fill")[i // 2 % 2]
        video = np.full((2, 8, 8, 3), level, np.uint8) + rng.integers(0, 9, (2, 8, 8, 3)).astype(np.uint8)
        video[..., 0] = 250 if style == "line" else 5
        kind = ("thunder", "")[i % 3 == 0], ("rain", "snow", "")[i % 3]
        records.append(
            record(
                sky="overcast", time=time, style=style, video=video, thunder=kind[0], precipitation=kind[1]
            )
        )
    return records


@pytest.fixture
def cheap_features(monkeypatch):
    monkeypatch.setattr(clips, "FEATURE_DIM", 3)
    monkeypatch.setattr(clips, "extract_features", mean_colours)
    monkeypatch.setattr(motioneval, "extract_style_features", lambda images: mean_colours(images)[:, :3])


@pytest.mark.usefixtures("cheap_features")
def test_probes_tell_what_the_pixels_tell_and_notice_a_change():
    train, test = weather_records(48), weather_records(12)
    left_out = record("move", video=np.zeros((2, 8, 8, 3), np.uint8))
    probes = motioneval.Probes([*train, left_out], lambda clips: None)
    videos = np.stack([r["video"] for r in test])
    right = probes.right(videos, test)
    assert right["time"].all() and right["style"].all()
    assert not probes.right(videos[1::2], test[::2])["time"].any()  # a day's clip for a night's record


@pytest.mark.usefixtures("cheap_features")
def test_probes_also_know_clips_through_the_tokenizer():
    train, test = weather_records(48), weather_records(12)
    rebuilt = 255 - np.stack([r["video"] for r in test])  # a tokenizer that inverts what it reads
    only_real = motioneval.Probes(train, lambda clips: None).right(rebuilt, test)["time"]
    both = motioneval.Probes(train, lambda clips: 255 - clips).right(rebuilt, test)["time"]
    assert only_real.mean() < both.mean()


@pytest.mark.usefixtures("cheap_features")
def test_shares_count_only_the_records_that_have_an_attribute():
    moving = [
        record("move", direction=name, concept=name, video=block_clip(step))
        for name, step in DIRECTIONS.items()
    ]
    real = np.stack([r["video"] for r in moving])
    scores = motioneval.motion_eval(real, moving, real, probes=None)
    assert scores == {"direction": 1.0, "retrieval": scores["retrieval"]}
    swapped = real.copy()
    swapped[0] = real[1]
    assert motioneval.motion_eval(swapped, moving, real, None)["direction"] == 7 / 8


def context(task, source="motion", features="", frames=8):
    from ml_collections import ConfigDict

    data = {"source": source, "split": "train", "eval_split": "test", "data_dir": "", "features": features}
    data["frames"] = frames
    config = ConfigDict({"task": "nuwa", "eval_every": 1, "seed": 0, "data": data})
    return Context(task, config, one_device_mesh())


def batches(videos, rows=2):
    for start in range(0, len(videos), rows):
        yield {
            "index": np.arange(start, start + rows),
            "example_mask": np.ones(rows, bool),
            "video": videos[start : start + rows],
        }


@pytest.mark.usefixtures("cheap_features")
def test_the_evaluator_puts_generated_clips_beside_real_and_rebuilt_ones(monkeypatch):
    records = weather_records(8)
    videos = np.stack([r["video"] for r in records])
    task = SimpleNamespace(
        traced=False,
        sample=lambda params, frozen, batch, key: 255 - batch["video"],
        eval_loader=lambda split: batches(videos),
        encode=lambda frozen, clips: clips,
        decode=lambda frozen, tokens: tokens,
    )
    monkeypatch.setattr(motioneval, "load_source", lambda *_: records)
    evaluator = make_evaluator("motioneval", {"clips": 6}, context(task))
    report = evaluator({}, {})
    rows = report.details["rows"]
    assert set(rows) == {"generated", "tokenizer", "real"} and report.details["clips"] == 6
    assert rows["real"] == rows["tokenizer"] and rows["real"]["time"] == 1.0
    assert report.scores == rows["generated"] and report.scores["time"] < 0.5


@pytest.mark.usefixtures("cheap_features")
def test_the_distance_of_clips_that_equal_the_reference_is_zero(monkeypatch):
    records = weather_records(8)
    videos = np.stack([r["video"] for r in records])
    task = SimpleNamespace(
        traced=False,
        sample=lambda params, frozen, batch, key: batch["video"],
        eval_loader=lambda split: batches(videos),
    )
    monkeypatch.setattr(clip_distance, "load_source", lambda *_: records)
    monkeypatch.setattr(clip_distance, "clip_features", lambda videos: videos.mean((1, 2, 3)))
    report = make_evaluator("fvd_efficientnet_lite0", {"num_samples": 8}, context(task))({}, {})
    assert report.scores == {"fvd_efficientnet_lite0": pytest.approx(0, abs=1e-6)}


def test_the_fvd_compares_the_logits_of_i3d(monkeypatch):
    records = [
        {"video": np.random.default_rng(i).integers(0, 256, (9, 8, 8, 3), np.uint8)} for i in range(20)
    ]
    videos = np.stack([r["video"] for r in records])
    task = SimpleNamespace(
        traced=False,
        sample=lambda params, frozen, batch, key: 255 - batch["video"],
        eval_loader=lambda split: batches(videos),
    )
    monkeypatch.setattr(clip_distance, "load_source", lambda *_: records)
    monkeypatch.setattr(clip_distance, "load_i3d", lambda path: {"from": path})
    seen = []

    def logits(params, clips, resize):
        seen.append((params, len(clips), resize))
        return clips.mean((1, 2, 3))

    monkeypatch.setattr(clip_distance, "i3d_logits", logits)
    options = {"num_samples": 20, "weights": "file.pt", "resize": "clean"}
    report = make_evaluator("fvd", options, context(task, frames=9))({}, {})
    features = videos.mean((1, 2, 3))
    expected = clip_distance.clip_distance(255 - features, features)
    assert report.scores == {"fvd_clean": pytest.approx(expected)} and expected > 0
    assert seen[:3] == [({"from": "file.pt"}, count, "clean") for count in (8, 8, 4)]


@pytest.mark.slow
def test_the_fvd_reads_clips_in_the_range_of_i3d(monkeypatch):
    """With random weights: zero for equal clips, and the logits of pixels from -1 to 1."""
    params = convert_i3d(random_state())
    videos = np.random.default_rng(0).integers(0, 256, (2, 9, 224, 224, 3), np.uint8)
    expected = I3D().apply({"params": params}, jnp.asarray(videos, jnp.float32) * (2 / 255) - 1)
    logits = clip_distance.i3d_logits(params, videos)
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    task = SimpleNamespace(
        traced=False,
        sample=lambda params, frozen, batch, key: batch["video"],
        eval_loader=lambda split: batches(videos),
    )
    monkeypatch.setattr(clip_distance, "load_source", lambda *_: [{"video": video} for video in videos])
    monkeypatch.setattr(clip_distance, "load_i3d", lambda path: params)
    report = make_evaluator("fvd", {"num_samples": 2}, context(task, frames=9))({}, {})
    assert report.scores == {"fvd_tf1": pytest.approx(0, abs=1e-3)}


def test_prediction_reports_its_gain_over_copying():
    videos = np.stack([block_clip((1, 0), frames=3), block_clip((0, 1), frames=3)] * 2)
    task = SimpleNamespace(
        predict=lambda params, frozen, batch, key, given: batch["video"],
        eval_loader=lambda split: batches(videos),
    )
    scores = make_evaluator("prediction", {"clips": 3}, context(task, frames=3))({}, {}).scores
    assert scores["psnr"] == pytest.approx(100.0)
    assert scores["gain"] == pytest.approx(100.0 - scores["copy_psnr"])


def test_prediction_gives_the_task_the_frames_that_it_copies():
    videos = np.stack([block_clip((3, 0), frames=4)] * 2)
    task = SimpleNamespace(
        predict=lambda params, frozen, batch, key, given: prediction.copy_last(batch["video"], given),
        eval_loader=lambda split: batches(videos),
    )
    found = {}
    for given in (1, 2, 3):
        report = make_evaluator("prediction", {"given": given}, context(task, frames=4))({}, {})
        assert report.scores["gain"] == 0 and report.details["given"] == given
        found[given] = report.scores["psnr"]
    assert found[1] < found[2] < found[3]  # the later the frame that is copied, the nearer are those after it


@pytest.mark.parametrize(
    "name, options, task, data, message",
    [
        ("prediction", {}, {}, {}, "predicts none"),
        ("prediction", {}, {"predict": 1}, {"features": "f"}, "set it to ''"),
        ("prediction", {"clips": 0}, {"predict": 1}, {}, "clips' is 0"),
        ("prediction", {"given": 3}, {"predict": 1}, {"frames": 3}, "given' is 3, .* from 1 to 2"),
        ("motioneval", {}, {}, {}, "generates none"),
        ("motioneval", {}, {"sample": 1}, {"source": "emoji"}, "measures the data source 'motion'"),
        ("motioneval", {"clips": 0}, {"sample": 1}, {}, "at least 1"),
        (
            "fvd",
            {},
            {"sample": 1},
            {"frames": 8},
            "needs clips of 9 frames or more, but config.data.frames is 8",
        ),
        ("fvd", {"resize": "none"}, {"sample": 1}, {"frames": 9}, "must be one of tf1, clean"),
        ("fvd", {"weights": "no"}, {"sample": 1}, {"frames": 9}, "no I3D weights at no: put i3d_pretrained"),
        ("fvd_efficientnet_lite0", {"num_samples": 1}, {"sample": 1}, {}, "at least 2"),
    ],
)
def test_what_cannot_be_measured_is_refused(name, options, task, data, message):
    with pytest.raises(ValueError, match=message):
        make_evaluator(name, options, context(SimpleNamespace(**task, traced=False), **data))
