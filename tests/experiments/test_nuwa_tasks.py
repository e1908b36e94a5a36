"""NUWA's tasks, on a pipeline that returns what it was given."""

import numpy as np

from experiments.nuwa_tasks import Task, run_tasks, strip

RNG = np.random.default_rng(0)
CLIP, SKETCH = RNG.integers(0, 256, (2, 8, 6, 4, 3), np.uint8)
RECORD = {"captions": ["a heart", "more"], "video": CLIP, "sketch": SKETCH}
MADE = np.arange(8, dtype=np.uint8)[:, None, None, None] * np.ones((1, 6, 4, 3), np.uint8)


class Pipe:
    """Remembers its calls; an image is the first frame of `MADE`."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*arguments, seed):
            self.calls.append((name, arguments))
            image = name.endswith("image") or name == "complete" or np.ndim(arguments[0]) == 4
            return MADE[None, 0] if image else MADE[None]

        return call


def test_each_task_gets_its_inputs_and_gives_a_clip():
    pipe = Pipe()
    tasks = run_tasks(pipe, RECORD, "a dog", seed=1)
    names = [name for name, _ in pipe.calls]
    assert names == [
        "generate_image",
        "generate_video",
        "predict",
        "complete",
        "manipulate",
        "manipulate",
        "sketch_to_image",
        "sketch_to_video",
    ]
    assert [len(task.made) for task in tasks] == [1, 8, 8, 1, 1, 8, 1, 8]
    assert [task.given is None for task in tasks] == [True, True] + [False] * 6
    arguments = [arguments for _, arguments in pipe.calls]
    assert arguments[1] == (["a heart"],)
    np.testing.assert_array_equal(arguments[2][0], CLIP[None, :1])
    np.testing.assert_array_equal(arguments[3][0], CLIP[None, 0])
    np.testing.assert_array_equal(arguments[5][0], CLIP[None])
    np.testing.assert_array_equal(arguments[7][0], SKETCH[None])
    mask = arguments[5][1]
    assert not mask[:3].any() and mask[3:].all() and arguments[5][2] == ["a dog"]
    np.testing.assert_array_equal(tasks[5].given[:, :3], CLIP[:, :3])
    assert (tasks[5].given[:, 3:] == 128).all()


def test_a_strip_shows_four_frames_from_first_to_last():
    image = strip(Task("", None, MADE))
    assert image.shape == (6, 4 * 4 + 2 + 4 * 4, 3) and (image[:, :18] == 255).all()
    assert image[0, 18::4, 0].tolist() == [0, 2, 5, 7]
    image = strip(Task("", CLIP[:1], MADE[:1]))
    np.testing.assert_array_equal(image[:, :4], CLIP[0])
    assert (image[:, 4:18] == 255).all() and (image[:, 18:22] == 0).all() and (image[:, 22:] == 255).all()
