"""Time the commands that must feel instant, beside a Python that does nothing."""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "polykit --help": [sys.executable, "-m", "polykit", "--help"],
    "polykit plugins list": [sys.executable, "-m", "polykit", "plugins", "list"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for round_ in range(12):
        for name, command in COMMANDS.items():
            spent = seconds(command)
            if round_ > 1:
                times[name].append(spent)
    print("| command | seconds (median of 10) |\n|---|---:|")
    for name, spent in times.items():
        print(f"| `{name}` | {statistics.median(spent):.2f} |")


if __name__ == "__main__":
    main()
