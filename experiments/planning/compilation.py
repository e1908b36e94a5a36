"""A program compiled for a pod: until its memory is laid out and, if there is time, to machine code."""

import math
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

# A line of the compiler's buffer assignment; allocations of a colour are on-chip.
_ALLOCATION = re.compile(r"allocation \d+: size (\d+),(?! color) (.*)")
_POLL_SECONDS = 0.2


class Compiled(NamedTuple):
    """What the compiler made of a program, for one device.

    text: its HLO after all passes. argument_bytes, temporary_bytes, fresh_bytes: in HBM; fresh are the
    outputs that take no argument's place. code_bytes: of machine code; nan where that was not waited for.
    """

    text: str
    argument_bytes: float
    temporary_bytes: float
    fresh_bytes: float
    code_bytes: float


def compile_program(lowered: Any, code_seconds: float = math.inf) -> Compiled:
    """Compiles a lowered program; its machine code is waited for `code_seconds` after its memory is laid out.

    For a TPU most of a long compile makes machine code: of a convolutional network's train step half a
    gigabyte. All else is known before. An abandoned compilation continues in its thread: only the end of the
    process ends it.

    Raises:
      jax.errors.JaxRuntimeError: the compiler's own, such as for a program that is too large for the memory.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        outcome: list[Any] = []
        thread = threading.Thread(target=_compile, args=(lowered, folder, outcome), daemon=True)
        thread.start()
        laid_out = None
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            # The last file before the machine code.
            if laid_out is None and any(Path(folder).glob("*after_buffer_assignment.txt")):
                laid_out = time.monotonic()
            if laid_out is not None and time.monotonic() - laid_out > code_seconds:
                break
        if outcome and isinstance(outcome[0], Exception):
            raise outcome[0]
        # The dump and not `as_text()`, which fails for some of v5p's programs.
        text = _largest(folder, "*after_optimizations.txt")
        if not outcome:
            return Compiled(text, *laid_out_bytes(_largest(folder, "*-buffer-assignment.txt")), math.nan)
        memory = outcome[0].memory_analysis()
        return Compiled(
            text,
            memory.argument_size_in_bytes,
            memory.temp_size_in_bytes,
            memory.output_size_in_bytes - memory.alias_size_in_bytes,
            memory.generated_code_size_in_bytes,
        )


def _compile(lowered: Any, folder: str, outcome: list[Any]) -> None:
    options = {"xla_dump_to": folder, "xla_dump_hlo_as_text": True}
    try:
        outcome.append(lowered.compile(compiler_options=options))
    except Exception as error:
        outcome.append(error)


def _largest(folder: str, pattern: str) -> str:
    """The text of the main program's dump, which is the largest."""
    return max(Path(folder).glob(pattern), key=lambda file: file.stat().st_size).read_text()


def laid_out_bytes(assignment: str) -> tuple[int, int, int]:
    """`(arguments, temporaries, outputs that take no argument's place)` of a buffer assignment's text."""
    arguments = temporaries = fresh = 0
    for size, kind in _ALLOCATION.findall(assignment):
        if " parameter " in kind:
            arguments += int(size)
        elif "live-out" in kind or " output" in kind:
            fresh += int(size)
        elif "preallocated-temp" in kind:
            temporaries += int(size)
    return arguments, temporaries, fresh
