"""The launch matrix as a Markdown table, from pytest's report of the slow tests.

python -m pytest -m slow tests/launch/test_launch.py --junitxml=launches.xml
python -m tests.launch.table launches.xml [more.xml ...]
"""

import re
import sys
from collections.abc import Iterable
from xml.etree import ElementTree

NAME = re.compile(r"test_a_config_goes_from_its_start_to_images\[(?P<config>\S+?)-(?P<layout>[0-9x]+.*)\]")


def read(file: str) -> dict[tuple[str, str], str]:
    """Of each (config, layout) the seconds that its launch took, or that it failed."""
    found = {}
    for case in ElementTree.parse(file).iter("testcase"):
        if match := NAME.fullmatch(case.attrib["name"]):
            failed = case.find("failure") is not None or case.find("error") is not None
            seconds = f"{float(case.attrib['time']):.0f} s"
            found[match["config"], match["layout"]] = "failed" if failed else seconds
    return found


def markdown(launches: dict[tuple[str, str], str]) -> str:
    """A row for each config, a column for each layout."""
    configs = sorted({config for config, _ in launches})
    layouts = list(dict.fromkeys(layout for _, layout in launches))
    rows = [["config", *layouts], ["---"] * (len(layouts) + 1)]
    rows += [[config, *(launches.get((config, layout), "") for layout in layouts)] for config in configs]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(files: Iterable[str]) -> None:
    """Prints the table of all files; later ones go before earlier ones."""
    launches: dict[tuple[str, str], str] = {}
    for file in files:
        launches |= read(file)
    print(markdown(launches))


if __name__ == "__main__":
    main(sys.argv[1:])
