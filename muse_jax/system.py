"""Systems: the tasks, networks and pipeline that belong together, found by name.

`config.system` and a pretrained directory's config.json name a system: "muse" is the package
`muse_jax.systems.muse`, and a name with a dot, such as "my_package.my_system", is a module of your own. The
module defines `SYSTEM`; it does not have to be registered anywhere.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from muse_jax.config_keys import nearest, one_of


@dataclass(frozen=True)
class Stage:
    """Network of a system: how runs train it and how a pretrained directory stores it.

    network: class of the Flax module, which has `example_inputs()`.
    tasks: names of the tasks that train it.
    file: stem of the safetensors file with its weights.
    sampling: class of its sampling parameters, a `SamplingParams`; None if nothing is sampled from it.
    tokenizer: config key of its tokenizer in a run's config; "" if it has none or shares that of another
    stage.
    tokenizer_file: stem of the safetensors file with the tokenizer's weights.
    optional: whether a pipeline may lack this stage.
    own: function that selects the parameters in its file from all parameters of the network.
    from_run: function that returns the same parameters from a run, a `RunSource`.
    """

    network: type
    tasks: tuple[str, ...]
    file: str
    sampling: Any = None
    tokenizer: str = ""
    tokenizer_file: str = ""
    optional: bool = False
    own: Callable[[Any], Any] = lambda params: params
    from_run: Callable[[Any], Any] = lambda run: run.trained_params()

    @property
    def is_tokenizer(self) -> bool:
        """Whether the network is a tokenizer, so that nothing is sampled from it."""
        return self.sampling is None


@dataclass(frozen=True)
class System:
    """A generative system: its training tasks, stages and pipeline.

    name: name of its package or dotted path of its module, see `find_system`.
    tasks: value of `config.task` -> class of the training task.
    stages: name -> `Stage`, in the order in which a pipeline runs them.
    pipeline: class of its pipeline; None for tokenizers.
    files: name of a further file in its pretrained directories -> config key that names, in a run, this file
      or a source that has it.
    converters: name of a layout in which others publish its weights -> function of a path that reads them
      into a pipeline, or into anything else that has `save_pretrained(directory, dtype)`.
    published: name of a published checkpoint -> the content of the config.json that its conversion has, by
      which runs that build on it are planned where it is not there.
    """

    name: str
    tasks: Mapping[str, type]
    stages: Mapping[str, Stage] = field(default_factory=dict)
    pipeline: Any = None
    files: Mapping[str, str] = field(default_factory=dict)
    converters: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def stage_of(self, task: str) -> str:
        """Name of the stage that a task trains.

        Raises:
          ValueError: the task trains no stage.
        """
        for name, stage in self.stages.items():
            if task in stage.tasks:
                return name
        raise ValueError(
            f"The task {task!r} of {self.name!r} trains no stage of a pipeline: give another run."
        )

    @property
    def file_names(self) -> set[str]:
        """Names of all files that its pretrained directories may have besides config.json."""
        stems = {
            stem for stage in self.stages.values() for stem in (stage.file, stage.tokenizer_file) if stem
        }
        return {f"{stem}.safetensors" for stem in stems} | set(self.files)


def find_system(name: str) -> System:
    """Imports a system.

    Args:
      name: name of a package in `muse_jax.systems`, or dotted path of a module that defines `SYSTEM`.

    Raises:
      ValueError: there is no such module, or it defines no `SYSTEM`.
    """
    path = name if "." in name else f"muse_jax.systems.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not path.startswith(error.name):
            raise  # the system exists, but not something that it imports
        raise ValueError(_unknown(name)) from None
    if not isinstance(getattr(module, "SYSTEM", None), System):
        raise ValueError(f"The module {path} defines no SYSTEM: give it one (docs/new-system.md).")
    return module.SYSTEM


def system_names() -> list[str]:
    """Names of the systems in `muse_jax.systems`."""
    path = importlib.import_module("muse_jax.systems").__path__
    return sorted(module.name for module in pkgutil.iter_modules(path) if module.ispkg)


def find_converter(name: str) -> Callable[[Any], Any]:
    """The function that reads the weights that others publish in the layout `name`, see `System.converters`.

    Raises:
      ValueError: one sentence, if no system in `muse_jax.systems` reads it.
    """
    known = {key: read for system in system_names() for key, read in find_system(system).converters.items()}
    if name not in known:
        raise ValueError(f"There is no layout {name!r}: {', '.join(sorted(known))} can be read.")
    return known[name]


def find_task(system: str, task: str) -> type:
    """Class of a task.

    Raises:
      ValueError: there is no such system, or it has no such task.
    """
    tasks = find_system(system).tasks
    one_of("task", task, tasks)
    return tasks[task]


def make_task(config: Any) -> Any:
    """Makes the task of a config from `validate_config`.

    Raises:
      ValueError: the task rejects the config.
    """
    return find_task(config.system, config.task)(config)


def _unknown(name: str) -> str:
    names = system_names()
    near = nearest(name, names)
    hint = f"; did you mean {near!r}?" if near else f": give one of {', '.join(names)}, or your own's path."
    return f"There is no system {name!r}{hint}"
