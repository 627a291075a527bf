"""``python -m benchmarks [--quick] [--json] [--dir PATH] [TOPIC ...]``."""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path

from benchmarks.report import Row, as_json, as_lines, machine
from benchmarks.rounds import QUICK, Place, Size

TOPICS = (
    *("warm", "entries", "arrays", "imports", "layers", "cold"),
    *("engines", "writeback", "uplink", "shared", "policies"),
)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("topics", nargs="*", metavar="TOPIC", help=f"of: {', '.join(TOPICS)}")
    parser.add_argument("--quick", action="store_true", help="show that it runs; no figures")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--dir", help="where the files go: a disk, not a tmpfs; 2 GB")
    given = parser.parse_args()
    unknown = set(given.topics) - set(TOPICS)
    if unknown:
        parser.error(f"no such topic: {', '.join(sorted(unknown))}; there are {', '.join(TOPICS)}")
    if not given.json:
        print(", ".join(f"{name} {value}" for name, value in machine().items()))
    rows: list[Row] = []
    for topic in given.topics or TOPICS:
        with tempfile.TemporaryDirectory(prefix="vfs-benchmark-", dir=given.dir) as root:
            place = Place(Path(root), QUICK if given.quick else Size())
            if not given.json:
                print(f"\n{topic}")
            for row in importlib.import_module(f"benchmarks.{topic}").run(place):
                rows.append(row)
                if not given.json:
                    print(as_lines(row), flush=True)
    if given.json:
        print(as_json(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
