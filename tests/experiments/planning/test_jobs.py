"""Plans as jobs: a compile that breaks down is one mesh less, not the end of a search."""

import functools
import importlib.util
import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from configs.smoke import base, vqgan
from experiments.planning import jobs
from muse_jax.training import validate_config

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed"
)


def find_nothing(name):
    return None


@pytest.fixture
def job(monkeypatch):
    monkeypatch.setattr(jobs, "load_topology", lambda name: SimpleNamespace(devices=(None,) * 4))
    monkeypatch.setattr(jobs, "markdown_table", lambda plans: f"{plans[0].mesh}")
    return jobs.Job("smoke", "train", "v5e:2x2", validate_config(vqgan.get_config()), find_nothing)


def answers(monkeypatch, fits, breaks):
    """Stands for the compiler: faster the wider fsdp is, but for what does not fit or breaks it down."""
    asked = []

    def run(job):
        mesh = job.config.mesh
        asked.append((mesh.fsdp, job.code_seconds))
        if breaks(mesh, job.code_seconds):
            raise ChildProcessError("the compiler ended with code -6")
        return SimpleNamespace(
            mesh=mesh, fits=fits(mesh), needed=1.0, images_per_second=float(mesh.fsdp), serial_seconds=1.0
        )

    monkeypatch.setattr(jobs, "run_job", run)
    return asked


def test_a_search_compiles_the_best_that_fits_to_its_machine_code(job, monkeypatch, capsys):
    asked = answers(monkeypatch, fits=lambda mesh: mesh.fsdp < 4, breaks=lambda mesh, _: mesh.tensor == 2)
    found = jobs.search(job)
    assert found[0].mesh.fsdp == 2 and asked[-1] == (2, jobs.CODE_SECONDS)
    assert all(seconds == 0 for _, seconds in asked[:-1])
    assert "the compiler ended with code -6" in capsys.readouterr().err


def test_a_best_choice_whose_machine_code_breaks_down_gives_way_to_the_next(job, monkeypatch):
    answers(monkeypatch, fits=lambda mesh: True, breaks=lambda mesh, seconds: seconds > 0 and mesh.fsdp == 4)
    assert jobs.search(job)[0].mesh.fsdp == 2


def test_a_search_in_which_nothing_fits_says_so(job, monkeypatch):
    answers(monkeypatch, fits=lambda mesh: False, breaks=lambda mesh, _: False)
    with pytest.raises(ValueError, match="No mesh of v5e:2x2 fits smoke"):
        jobs.search(job)


def test_a_process_that_dies_is_told_in_one_sentence(job):
    job = job._replace(config=Dies())
    with pytest.raises(ChildProcessError, match="planned smoke on v5e:2x2 ended with code 7") as caught:
        jobs.run_job(job)
    assert "\n" not in str(caught.value)


@needs_libtpu
def test_what_the_compiler_refuses_is_told_in_one_sentence(job):
    with pytest.raises(
        ChildProcessError, match=r"refuses smoke on v5e:2x2 \(INTERNAL: no\): try another"
    ) as caught:
        jobs.run_job(asking(job, refuse))
    assert "\n" not in str(caught.value)


@needs_libtpu
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are looked up in /proc")
def test_a_plan_ends_with_the_process_that_asked_for_it(job, tmp_path):
    noted = tmp_path / "pid"
    parent = multiprocessing.get_context("spawn").Process(
        target=jobs.run_job, args=(asking(job, functools.partial(note_and_sleep, noted)),)
    )
    parent.start()
    deadline = time.monotonic() + 60
    while not noted.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    child = int(noted.read_text())
    parent.kill()
    parent.join()
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()


def asking(job, find_config):
    """The job with a tokenizer that only `find_config` can describe, which the plan asks when it runs."""
    config = validate_config({**base.get_config().to_dict(), "tokenizer": "runs/absent"})
    return job._replace(config=config, find_config=find_config)


def refuse(name):
    raise jax.errors.JaxRuntimeError("INTERNAL: no\nand more")


def note_and_sleep(path, name):
    unfinished = path.with_suffix(".tmp")
    unfinished.write_text(str(os.getpid()))
    unfinished.rename(path)
    time.sleep(100)


class Dies:
    """A config that ends the process which unpickles it."""

    def __reduce__(self):
        return _die, ()


def _die():
    os._exit(7)
