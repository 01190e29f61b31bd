"""All tables that the benchmarks have written so far -> benchmarks/results.md:  python benchmarks/results.py"""

from __future__ import annotations

import json
from pathlib import Path

from measure import table

HERE = Path(__file__).parent
HEAD = """# Benchmarks

Written by `make bench`; each table names the command that makes it alone. Seconds are process CPU time; ratios were
measured side by side in one run and are what counts, absolute times depend on the machine.
"""


def main() -> None:
    results = [json.loads(path.read_text()) for path in sorted((HERE / "out").glob("*.json"))]
    parts = [HEAD]
    for result in results:
        machine = ", ".join(f"{name} {value}" for name, value in result["machine"].items())
        parts.append(f"## {result['title']}\n\n`{result['command']}`\n\n{table(result['rows'])}\n{machine}\n")
    (HERE / "results.md").write_text("\n".join(parts), encoding="utf-8")
    print(f"\n{len(results)} tables in {HERE / 'results.md'}")


if __name__ == "__main__":
    main()
