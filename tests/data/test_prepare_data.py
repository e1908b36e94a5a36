"""The command that downloads and builds the data sets."""

import subprocess
import sys

import pytest

from experiments.prepare_data import fetch
from muse_jax.data import load_source
from muse_jax.data.emoji.artwork import STYLES


def run(*arguments):
    command = [sys.executable, "-m", "experiments.prepare_data", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_builds_from_a_folder_of_tarballs(downloads, tmp_path):
    result = run("--data=emoji", f"--downloads={downloads}", f"--data_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    sizes = {split: len(load_source("emoji", split, tmp_path)) for split in ("train", "heldout_pairs")}
    assert f"emoji at 128 px: train {sizes['train']}, heldout_pairs {sizes['heldout_pairs']}" in result.stdout


def test_builds_icons_with_their_notice(icons_downloads, tmp_path):
    result = run("--data=icons", f"--downloads={icons_downloads}", f"--data_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert "icons: masks " in result.stdout and "render: 100%" in result.stderr
    assert len(load_source("icons", "train", tmp_path)) > 25
    assert "Game-Icons (game-icons)" in (tmp_path / "icons" / "1.0.0" / "NOTICE").read_text()


def test_builds_motion_with_its_notice(motion_downloads, tmp_path):
    result = run("--data=motion", f"--downloads={motion_downloads}", f"--data_dir={tmp_path}")
    assert result.returncode == 0, result.stderr
    assert "motion: weather_train " in result.stdout and "render weather: 100%" in result.stderr
    assert len(load_source("motion", "train", tmp_path)) > 25
    assert "A. Author" in (tmp_path / "motion" / "1.0.0" / "NOTICE").read_text()


def test_an_existing_tarball_is_not_downloaded(downloads, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert fetch(STYLES["noto"], downloads).is_file()


def test_a_missing_npm_is_explained(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ValueError, match="npm is not installed: install npm, or give .* --downloads"):
        fetch(STYLES["noto"], tmp_path)


def test_a_failure_of_npm_is_reported_in_one_sentence(tmp_path, monkeypatch):
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\necho 'npm error network unreachable' >&2\nexit 1\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/bin:/usr/bin")
    with pytest.raises(ValueError, match=r"could not download @iconify.*network unreachable.*--downloads"):
        fetch(STYLES["noto"], tmp_path)
