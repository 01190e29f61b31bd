"""Collect the tables of the benchmarks in benchmarks/results.md.

    python benchmarks/results.py

Tables of benchmarks that were not run again are kept.
"""

from __future__ import annotations

import json
from pathlib import Path

from measure import OUT, slug, table

HERE = Path(__file__).parent
HEAD = """# Benchmarks

`make bench` writes the tables of attention, network, inference, pseudo-labels and J&F; each table
names the command that makes it alone. Seconds are process CPU time; ratios were measured side by
side in one run and are what counts, absolute times depend on the machine.
"""


def main() -> None:
    page = HERE / "results.md"
    _, *sections = page.read_text().split("\n## ") if page.exists() else [""]
    tables = {slug(section.splitlines()[0]): section.strip() for section in sections}
    new = [json.loads(path.read_text()) for path in sorted(OUT.glob("*.json"))]
    for result in new:
        machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
        tables[slug(result["title"])] = (
            f"{result['title']}\n\n`{result['command']}`\n\n{table(result['rows'])}\n{machine}"
        )
    page.write_text(
        "\n".join([HEAD, *(f"## {section}\n" for _, section in sorted(tables.items()))]),
        encoding="utf-8",
    )
    print(f"\n{len(new)} new tables in {page}, {len(tables)} in total")


if __name__ == "__main__":
    main()
