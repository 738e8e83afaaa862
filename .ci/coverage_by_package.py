"""Print the coverage of lines a package, and the modules that are below a bound."""

import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path, PurePosixPath

LOW = 85.0
"""Modules below so many per cent are named."""


def main() -> None:
    """Read the data that COVERAGE_FILE names."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        subprocess.run([sys.executable, "-m", "coverage", "json", "-q", "-o", report], check=True)  # noqa: S603
        files = json.loads(report.read_text(encoding="utf-8"))["files"]
    packages: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    low = []
    for name, entry in sorted(files.items()):
        found = entry["summary"]
        package = packages[str(PurePosixPath(name).parent)]
        package[0] += found["num_statements"]
        package[1] += found["covered_lines"]
        if found["percent_covered"] < LOW:
            low.append(f"  {name}: {found['percent_covered']:.0f} % of {found['num_statements']}")
    for package, (statements, covered) in sorted(packages.items()):
        print(f"{package:45s} {statements:6d} statements {100 * covered / max(statements, 1):5.1f} %")
    print(f"modules below {LOW:.0f} %:" if low else f"no module is below {LOW:.0f} %")
    print("\n".join(low))


main()
