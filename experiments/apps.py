"""Shared parts of the commands: config files, overrides, and errors printed as one sentence."""

import ast
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import re
import sys
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import ml_collections
from absl import app, flags, logging
from ml_collections import config_flags

from muse_jax.config_keys import nearest

CPU_OPTIONS = "--xla_cpu_experimental_ynn_fusion_type=LIBRARY_FUSION_TYPE_DOT"
"""XLA's options for a CPU: YNNPACK computes matrix products only, XLA's own code the convolutions."""
CONFIG_HELP = "A config file, such as configs/emoji/base.py; override as --config.x=y."


def run(
    main: Callable[[], None],
    stopped: str = "Stopped; run the same command to resume from the last checkpoint.",
) -> None:
    """Runs `main` under absl, and prints a ValueError or OSError as its message.

    With --verbosity=1 the traceback is printed too. `--config=FILE` is read here, once, and completed with
    the defaults, so that every key can be overridden by --config.x=y. `main` finds the config in
    `flags.FLAGS.config`, which is None if the flag is absent.

    Args:
      main: function of the command.
      stopped: message to print after Ctrl-C.
    """

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            raise SystemExit(f"Unexpected argument {argv[1]!r}: options are written --name=value.")
        if not flags.FLAGS["verbosity"].present:
            logging.set_verbosity(logging.WARNING)  # JAX and Orbax log every backend and checkpoint
        use_cpu_options(os.environ)
        try:
            main()
        except (ValueError, OSError) as error:
            logging.debug("Traceback:", exc_info=True)
            raise SystemExit(str(error)) from None
        except ModuleNotFoundError as error:
            missing = _missing_extra(error)
            if missing is None:
                raise
            raise SystemExit(missing) from None
        except KeyboardInterrupt:
            raise SystemExit(stopped) from None

    app.run(guarded, argv=_define_config(sys.argv), flags_parser=_parse)


def _define_config(argv: list[str]) -> list[str]:
    """Defines the flag --config from the file that `argv` names, and returns the rest of `argv`."""
    names = ("--config", "-config")
    argv = list(argv)
    for index, arg in enumerate(argv[1:], 1):
        name, _, value = arg.partition("=")
        if name in names:
            rest = argv[:index] + argv[index + (1 if "=" in arg else 2) :]
            value = value or "".join(argv[index + 1 : index + 2])
            from muse_jax.training.config import validate_config  # slow to import

            try:
                config = validate_config(load_config_file(value))
                # Without --config itself, for which the flag would expect a value.
                config_flags.DEFINE_config_dict("config", config, help_string=CONFIG_HELP, sys_argv=rest)
            except ValueError as error:
                raise SystemExit(str(error)) from None
            except (AttributeError, KeyError) as error:
                unknown = _unknown_override(rest, config)
                if unknown is None:
                    raise
                raise SystemExit(unknown) from error
            return rest
    flags.DEFINE_string("config", None, CONFIG_HELP)
    return argv


def load_config_file(name: str) -> ml_collections.ConfigDict:
    """Result of a file's get_config(); `FILE:ARGUMENT` calls get_config(ARGUMENT).

    Raises:
      ValueError: the file does not exist or has no get_config.
    """
    path, _, argument = name.partition(":")
    if not Path(path).is_file():
        raise ValueError(f"The config file {path!r} does not exist: give one like configs/emoji/base.py.")
    spec: Any = importlib.util.spec_from_file_location("config_file", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise ValueError(f"The config file {path!r} has no function get_config().")
    return module.get_config(argument) if argument else module.get_config()


def use_cpu_options(environment: MutableMapping[str, str]) -> None:
    """Sets XLA_FLAGS to `CPU_OPTIONS` where these make JAX faster, unless the variable is already set.

    They do so on x86 CPUs without AVX-512; with AVX-512 YNNPACK's convolutions are as fast
    (docs/benchmarks.md). Must be called before JAX initializes its devices, which is when XLA reads its
    flags.
    """
    import jax

    from muse_jax.sharding.distributed import has_tpu

    platforms = environment.get("JAX_PLATFORMS", "")
    if platforms:
        on_cpu = platforms.split(",")[0] == "cpu"
    else:
        on_cpu = not has_tpu() and not importlib.metadata.entry_points(group="jax_plugins")
    # XLA aborts if it does not know an option; these versions know it.
    if on_cpu and _is_x86_without_avx512() and (0, 10) <= jax.__version_info__ < (0, 13):
        environment.setdefault("XLA_FLAGS", CPU_OPTIONS)


def _is_x86_without_avx512() -> bool:
    processors = Path("/proc/cpuinfo")
    if platform.machine() != "x86_64" or not processors.exists():
        return False
    return "avx512f" not in processors.read_text()


def taken(options: dict[str, Any], function: Callable[..., Any]) -> dict[str, Any]:
    """Options that `function` has as parameters."""
    return {name: options[name] for name in inspect.signature(function).parameters if name in options}


def _missing_extra(error: ModuleNotFoundError) -> str | None:
    """Message naming the extra that contains the missing module; None if no extra does."""
    module = (error.name or "").partition(".")[0]
    try:
        requirements = importlib.metadata.requires("muse_jax") or []
    except importlib.metadata.PackageNotFoundError:
        return None
    for requirement in requirements:
        found = re.match(r"""([\w.-]+).*extra == ["'](\w+)["']""", requirement)
        if found and _normalized(found[1]) == _normalized(module):
            return (
                f"This command needs the package {found[1]}, which is not installed: "
                f"install the extra {found[2]!r} with `pip install -e '.[{found[2]}]'`."
            )
    return None


def _normalized(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def parse_mesh(text: str) -> Any:
    """Parses a mesh such as "data=2,fsdp=4"; an empty text gives None, for one device.

    Omitted axes have size 1, and one axis may be -1, for the remaining devices.

    Raises:
      ValueError: the text is malformed, or the sizes do not cover the devices.
    """
    from muse_jax.sharding.partitioning import MESH_AXES, make_mesh

    if not text:
        return None
    shape = dict.fromkeys(MESH_AXES, 1)
    for part in text.split(","):
        axis, _, size = part.partition("=")
        if axis not in shape or not re.fullmatch(r"-1|[1-9]\d*", size):
            raise ValueError(
                f"--mesh={text} has the part {part!r}: write AXIS=SIZE with an axis of {', '.join(shape)}, "
                "such as --mesh=data=2,fsdp=4."
            )
        shape[axis] = int(size)
    return make_mesh(shape)


def parse_options(text: str, flag: str = "sampling") -> dict[str, Any]:
    """Parses the value of a flag such as "num_steps=24,order=halton"; Python literals are evaluated.

    Raises:
      ValueError: a part has no "=".
    """
    found: dict[str, Any] = {}
    for part in filter(None, text.split(",")):
        name, separator, value = part.partition("=")
        if not separator:
            raise ValueError(f"--{flag}={text} has the part {part!r}: write --{flag}=NAME=VALUE,NAME=VALUE.")
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _parse(argv: list[str]) -> list[str]:
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise SystemExit(" ".join(str(error).split()).rstrip(".") + ".") from None


def _unknown_override(argv: list[str], config: ml_collections.ConfigDict) -> str | None:
    """Message about the first --config.x=y with an unknown key; None if there is none."""
    known = [f"config.{key}" for key in _paths(config.to_dict())]
    for arg in argv[1:]:
        name = arg.lstrip("-").split("=")[0]
        if name.startswith("config.") and name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near}?" if near else "the config file shows its keys."
            return f"Unknown config key {name!r}: {hint}"
    return None


def _paths(section: dict[str, Any], prefix: str = "") -> list[str]:
    paths = []
    for key, value in section.items():
        paths += _paths(value, f"{prefix}{key}.") if isinstance(value, dict) else [prefix + key]
    return paths
