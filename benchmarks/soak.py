"""Kill processes of a sweep at random, over and over; it must end complete and equal.

    python benchmarks/soak.py [--kills 30] [--seeds 10] [--workers 2] [--pause 8] [--seed 0]

A small analysis runs on engine `local`. A random time of up to `--pause` seconds after it has
workers one of its processes, the driver included, is chosen at random and killed with SIGKILL, and
again; a driver that is gone is started again with `--resume`. At the end every file of the run but
its record must have the bytes of an undisturbed run, and the record must say that it is complete.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

POLYKIT = (sys.executable, "-m", "polykit")


@dataclass
class Soak:
    """A run at `path`, and how often what of it was killed."""

    path: Path
    words: list[str]
    kills: Counter[str] = field(default_factory=Counter)
    starts: int = 0

    def start(self) -> subprocess.Popen[bytes]:
        """Start the run's driver, or let a new one go on."""
        words = self.words
        if (self.path / "run.json").exists():
            words = ["run", "--resume", str(self.path), "--no-report"]
        self.starts += 1
        return subprocess.Popen(
            [*POLYKIT, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    def disturb(self, kills: int, pause: float, draw: random.Random) -> int:
        """Run to the end, killing so many processes on the way; return the last exit code."""
        driver = self.start()
        while self.kills.total() < kills:
            while driver.poll() is None and not workers_of(driver.pid):
                time.sleep(0.01)
            end = time.monotonic() + draw.uniform(0, pause)
            while driver.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
            if driver.poll() is not None:
                if driver.returncode == 0:
                    break
                driver = self.start()
                continue
            victims = [driver.pid, *workers_of(driver.pid)]
            victim = draw.choice(victims)
            kill(victim)
            self.kills["driver" if victim == driver.pid else "worker"] += 1
        while driver.wait() != 0 and self.starts <= 2 * kills + 2:
            driver = self.start()
        return driver.returncode


def workers_of(driver: int) -> list[int]:
    """The worker processes of a driver, by what is in their command line."""
    found = []
    for children in Path(f"/proc/{driver}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            with suppress(FileNotFoundError, ProcessLookupError):  # it may have ended by now
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
    return found


def kill(process: int) -> None:
    """Kill a process, if it is still there."""
    with suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def contents(path: Path) -> dict[str, bytes]:
    """Every file of a run but its record, with its bytes."""
    found = (p for p in path.rglob("*") if p.is_file() and p.name != "run.json")
    return {str(p.relative_to(path)): p.read_bytes() for p in found}


def analysis(seeds: int, engine: str, out: Path) -> list[str]:
    """The command line of a small analysis of many cells."""
    words = ["analyze", "--model", "mlp:widths=32", "--epochs", "3", "--retrain-epochs", "2"]
    words += ["--pruner", "magnitude", "--density", "0.5", "--density", "0.1", "--ensemble", "1"]
    for seed in range(seeds):
        words += ["--seed", str(seed)]
    return [*words, "--engine", engine, "--no-report", "--out", str(out)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--pause", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        calm, soaked = Path(folder) / "calm", Path(folder) / "soaked"
        quiet = subprocess.run(
            [*POLYKIT, *analysis(given.seeds, "serial", calm)], capture_output=True, check=False
        )
        began = time.monotonic()
        engine = f"local:workers={given.workers}"
        soak = Soak(soaked, analysis(given.seeds, engine, soaked))
        code = soak.disturb(given.kills, given.pause, random.Random(given.seed))
        record = json.loads((soaked / "run.json").read_text())
        same = contents(calm) == contents(soaked)
        whole = code == 0 and record["status"] == "complete" and not record["failures"]
        print(
            f"{soak.kills.total()} kills ({soak.kills['worker']} of workers, "
            f"{soak.kills['driver']} of drivers), {soak.starts} starts, {len(record['cells'])} "
            f"cells, {time.monotonic() - began:.0f} s; exit {quiet.returncode} and {code}, status "
            f"{record['status']}, {'equal' if same else 'NOT EQUAL'} to an undisturbed run"
        )
        raise SystemExit(not (same and whole and soak.kills.total() == given.kills))


if __name__ == "__main__":
    main()
