"""Metrics of a run: metrics.jsonl, previews and the progress line."""

import json

from muse_jax.training import train
from muse_jax.training.metrics import ProgressLine, format_seconds
from tests.training.least_squares import LeastSquares
from tests.training.runs import bare_config, bare_run, rows


def test_corrupt_records_are_counted_in_the_log(tmp_path):
    class Skipping(LeastSquares):
        def make_loader(self, split, seed):
            loader = super().make_loader(split, seed)
            loader.skipped = 3
            return loader

    config = bare_config(total_steps=2)
    train(config, Skipping(config), tmp_path)
    assert rows(tmp_path, "train")[-1]["corrupt_records"] == 3


def test_an_incomplete_line_of_metrics_is_dropped(tmp_path):
    bare_run(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "ki')
    bare_run(tmp_path / "run", total_steps=8)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [2, 4, 6, 8]


def test_the_progress_line(capsys):
    assert [format_seconds(s) for s in (5, 75, 7205)] == ["0:05", "1:15", "2:00:05"]
    progress = ProgressLine(10)
    assert progress.speed(5, 2.0) == 2.5
    progress.show(5, 1.25, 80.0, 0.5)
    line = capsys.readouterr().err
    assert line.startswith("step 5/10  loss 1.2500  80.0 examples/s  mfu 50.0%") and line.endswith("left\n")
