"""Compilation of a program for a pod, up to its memory layout or to machine code."""

import math
import re
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple

# A line of the compiler's buffer assignment; allocations with a colour are on-chip.
_ALLOCATION = re.compile(r"allocation \d+: size (\d+),(?! color) (.*)")
_POLL_SECONDS = 0.2


class Compiled(NamedTuple):
    """Result of the compiler for one device.

    text: HLO after all passes.
    argument_bytes: arguments, in HBM.
    temporary_bytes: temporaries, in HBM.
    fresh_bytes: outputs that do not reuse an argument's memory, in HBM.
    code_bytes: machine code; nan if it was not completed.
    """

    text: str
    argument_bytes: float
    temporary_bytes: float
    fresh_bytes: float
    code_bytes: float


def compile_program(lowered: Any, code_seconds: float = math.inf) -> Compiled:
    """Compiles a lowered program, and waits at most `code_seconds` for machine code after the memory layout.

    For TPUs most of a long compilation produces machine code: half a gigabyte for a convolutional network's
    train step. Everything else is known earlier. An abandoned compilation continues in its thread until the
    process ends.

    Raises:
      jax.errors.JaxRuntimeError: from the compiler, for example for a program that is too large.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        outcome: list[Any] = []
        thread = threading.Thread(target=_compile, args=(lowered, folder, outcome), daemon=True)
        thread.start()
        laid_out = None
        while thread.is_alive():
            thread.join(_POLL_SECONDS)
            # The last file that is written before the machine code.
            if laid_out is None and any(Path(folder).glob("*after_buffer_assignment.txt")):
                laid_out = time.monotonic()
            if laid_out is not None and time.monotonic() - laid_out > code_seconds:
                break
        if outcome and isinstance(outcome[0], Exception):
            raise outcome[0]
        # Not from `as_text()`, which fails for some programs for v5p.
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
    """Text of the largest dump, that of the main program."""
    return max(Path(folder).glob(pattern), key=lambda file: file.stat().st_size).read_text()


def laid_out_bytes(assignment: str) -> tuple[int, int, int]:
    """Bytes of `(arguments, temporaries, outputs in new memory)` from the text of a buffer assignment."""
    arguments = temporaries = fresh = 0
    for size, kind in _ALLOCATION.findall(assignment):
        if " parameter " in kind:
            arguments += int(size)
        elif "live-out" in kind or " output" in kind:
            fresh += int(size)
        elif "preallocated-temp" in kind:
            temporaries += int(size)
    return arguments, temporaries, fresh
