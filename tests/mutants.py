"""The table of mutants by module: `python -m tests.mutants`, after `mutmut run`; `make mutants` does both.

A mutant is killed if a test fails or does not end, and survives if all tests pass or none reaches it.
"""

import json
from collections import Counter
from pathlib import Path

from mutmut.stats import status_by_exit_code

KILLED = ("killed", "timeout")


def main() -> None:
    """Prints a Markdown table and the names of the survivors."""
    total: Counter[str] = Counter()
    survivors: list[str] = []
    print("| module | mutants | killed | survive | killed of all |\n|---|---|---|---|---|")
    for file in sorted(Path("mutants").rglob("*.py.meta")):
        codes = json.loads(file.read_text())["exit_code_by_key"]
        done = {name: code for name, code in codes.items() if code is not None}
        if not done:
            continue
        alive = [
            name for name, code in done.items() if status_by_exit_code[code] not in ("killed", "timeout")
        ]
        survivors += alive
        row(str(file.relative_to("mutants")).removesuffix(".meta"), len(done), len(alive))
        total.update(mutants=len(done), alive=len(alive))
    row("all", total["mutants"], total["alive"])
    print("\nSurvivors (`mutmut show NAME` prints the change):")
    print("\n".join(survivors))


def row(name: str, mutants: int, alive: int) -> None:
    """Prints a row of the table."""
    share = f"{1 - alive / mutants:.0%}" if mutants else ""
    print(f"| {name} | {mutants} | {mutants - alive} | {alive} | {share} |")


if __name__ == "__main__":
    main()
