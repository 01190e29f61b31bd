"""The tables that the benchmarks have written -> benchmarks/results.md:  python benchmarks/results.py

A table of a command that was not run again stays as it stands there.
"""

from __future__ import annotations

import json
from pathlib import Path

from measure import slug, table

HERE = Path(__file__).parent
HEAD = """# Benchmarks

`make bench` writes the tables of attention, network, inference, pseudo-labels and J&F; each table names the command
that makes it alone. Seconds are process CPU time; ratios were measured side by side in one run and are what counts,
absolute times depend on the machine.
"""


def main() -> None:
    path = HERE / "results.md"
    _, *sections = path.read_text().split("\n## ") if path.exists() else [""]
    tables = {slug(section.splitlines()[0]): section.strip() for section in sections}
    fresh = [json.loads(each.read_text()) for each in sorted((HERE / "out").glob("*.json"))]
    for result in fresh:
        machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
        tables[slug(result["title"])] = (
            f"{result['title']}\n\n`{result['command']}`\n\n{table(result['rows'])}\n{machine}"
        )
    path.write_text(
        "\n".join([HEAD, *(f"## {section}\n" for _, section in sorted(tables.items()))]),
        encoding="utf-8",
    )
    print(f"\n{len(fresh)} fresh tables in {path}, {len(tables)} in all")


if __name__ == "__main__":
    main()
