"""Print the coverage of lines a package, and the modules that are below a bound.

Every process wrote a file of its own next to COVERAGE_FILE. Those that a test killed while they wrote are damaged, and
coverage's own command ends at them: here they are left out, and counted.
"""

import json
import os
import tempfile
from collections import defaultdict
from pathlib import Path, PurePosixPath

from coverage import Coverage, CoverageData
from coverage.exceptions import DataError

LOW = 85.0
"""Modules below so many per cent are named."""


def is_whole(path: Path) -> bool:
    """Return whether a file of measurements can be read, and combined with others."""
    try:
        found = CoverageData(str(path))
        found.read()
        CoverageData(no_disk=True).update(found)
    except DataError:
        return False
    return True


def main() -> None:
    """Combine the files, and print what they tell."""
    data = Path(os.environ["COVERAGE_FILE"])
    measured = sorted(data.parent.glob(f"{data.name}.*"))
    whole = [path for path in measured if is_whole(path)]
    print(f"{len(measured)} processes; what {len(measured) - len(whole)} of them left is damaged: killed as they wrote")
    coverage = Coverage(data_file=str(data))
    coverage.combine([str(path) for path in whole], strict=True, keep=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        coverage.json_report(outfile=str(report))
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


if __name__ == "__main__":
    main()
