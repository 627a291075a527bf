"""What an import costs over fsspec's: CPU time of fresh processes, so that load matters less."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Iterator

from benchmarks.report import Row
from benchmarks.rounds import Place

TOPIC = "imports"

_SCRIPT = """
import json, sys, time
import fsspec
if sys.argv[1] != "import vfs":
    fsspec.get_filesystem_class("file")
modules, began = len(sys.modules), time.process_time()
exec(sys.argv[1])
print(json.dumps([time.process_time() - began, len(sys.modules) - modules]))
"""

_CASES = {
    "import vfs": "import vfs",
    "first fsspec.filesystem('disk')": "fsspec.filesystem('disk')",
    "first fsspec.filesystem('tier')": (
        "fsspec.filesystem('tier', hot=sys.argv[2], cold=sys.argv[3])"
    ),
    "first read through a new tier": (
        "fsspec.filesystem('tier', hot=sys.argv[2], cold=sys.argv[3]).cat_file('a')"
    ),
}
_BUDGETS = {"import vfs": (30.0, 40.0)}


def run(place: Place) -> Iterator[Row]:
    cold = place.folder("cold")
    (cold / "a").write_bytes(b"hello")
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in _CASES}
    for turn in range(place.size.import_rounds + 1):
        for number, (name, code) in enumerate(_CASES.items()):
            hot = place.root / f"hot{number}-{turn}"
            command = [sys.executable, "-c", _SCRIPT, code, str(hot), f"disk://{cold}"]
            run = subprocess.run(
                command, capture_output=True, text=True, check=True, cwd=place.root
            )
            if turn:  # the first round writes bytecode
                seconds, modules = json.loads(run.stdout)
                found[name].append((seconds, modules))
    for name, values in found.items():
        times = [seconds for seconds, _ in values]
        budgets = _BUDGETS.get(name, (None, None))
        yield Row(
            TOPIC,
            name,
            "CPU over import fsspec",
            statistics.median(times) * 1e3,
            unit="ms",
            budget=budgets[0],
            median_s=statistics.median(times),
            best_s=min(times),
        )
        yield Row(TOPIC, name, "modules loaded", values[0][1], unit="modules", budget=budgets[1])
