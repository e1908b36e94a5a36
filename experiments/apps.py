"""What the command-line programs share: flags that explain themselves and errors in one sentence."""

import difflib
from collections.abc import Callable
from pathlib import Path

from absl import app, flags, logging

from muse_jax.training.config import default_config


def _parse(argv: list[str]) -> list[str]:
    for arg in argv[1:]:
        name, _, value = arg.partition("=")
        if name.lstrip("-") == "config" and value and not Path(value.split(":")[0]).is_file():
            raise SystemExit(f"The config file {value} does not exist: give one like configs/emoji/base.py.")
    try:
        return flags.FLAGS(argv)
    except flags.Error as error:
        raise SystemExit(" ".join(str(error).split()).rstrip(".") + ".") from None
    except (AttributeError, KeyError) as error:
        # An override of a key that the config file does not have.
        for arg in argv[1:]:
            name = arg.lstrip("-").split("=")[0]
            if name.startswith("config.") and f"'{name.split('.')[-1]}" in str(error).replace("\\", ""):
                raise SystemExit(f"Unknown config key {name!r}: {_nearest(name)}") from None
        raise
    except (OSError, ValueError, TypeError) as error:
        raise SystemExit(f"The flags cannot be read: {error}.") from None


def _nearest(name: str) -> str:
    def paths(section: dict, prefix: str) -> list[str]:
        out = []
        for key, value in section.items():
            out += paths(value, f"{prefix}.{key}") if isinstance(value, dict) else [f"{prefix}.{key}"]
        return out

    near = difflib.get_close_matches(name, paths(default_config().to_dict(), "config"), n=1, cutoff=0.5)
    return f"did you mean {near[0]}?" if near else "see the config file for the keys there are."


def run(main: Callable[[], None]) -> None:
    """Runs `main` under absl; a ValueError or OSError becomes its message (--verbosity=1: and traceback)."""

    def guarded(argv: list[str]) -> None:
        if len(argv) > 1:
            raise SystemExit(f"Unexpected argument {argv[1]!r}: options are written --name=value.")
        try:
            main()
        except (ValueError, OSError) as error:
            logging.debug("It rose here:", exc_info=True)
            raise SystemExit(str(error)) from None
        except KeyboardInterrupt:
            raise SystemExit("Stopped; run the same command to go on from the last checkpoint.") from None

    app.run(guarded, flags_parser=_parse)
