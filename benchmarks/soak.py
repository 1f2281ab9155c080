"""Nights in a row: `python benchmarks/soak.py [NIGHTS]` in one process, `--scheduled [NIGHTS]` under `retrain up`.

Real hours of 17 homes (load_peak), from 2017-06-01 on, in a fresh home, each night with the same number of days.
Memory, open files and time a night must stay flat, and the disk must grow by the same for each night. Of scheduled runs
memory, files and processors are those of the whole tree of `retrain up` after the night, and the seconds are those of
its stages.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

FIRST = date(2017, 6, 1)
LOAD_PEAK = """
from dataclasses import replace
from ml.use_cases import load_peak
USE_CASE = replace(load_peak.USE_CASE, schedule="* * * * *", window_days=270)
"""
# seconds of the night, seconds of processors up to now, resident MB, open files, MB of the store
Seen = tuple[float, float, float, float, float]


def processor_seconds(pids: set[int]) -> float:
    """Of these processes, and of those which they started and saw end."""
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(ticks) for stat in fields for ticks in stat[11:15]) / os.sysconf("SC_CLK_TCK")


def measures(pids: set[int]) -> tuple[float, float, float, float]:
    return processor_seconds(pids), resident_megabytes(pids), float(open_files(pids)), stored_megabytes()


def resident_megabytes(pids: set[int]) -> float:
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files(pids: set[int]) -> int:
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in pids)


def tree(root: int) -> set[int]:
    """The process and all that it started, directly or not."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            pid, _, rest = path.read_text().partition(" (")
            parents[int(pid)] = int(rest.rpartition(")")[2].split()[1])
        except FileNotFoundError:
            continue
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def stored_megabytes() -> float:
    from ml.settings import Settings
    from ml.storage.store import open_store

    return sum(open_store(Settings.from_environment().store).sizes().values()) / 1e6


def nights_here(nights: int) -> Iterator[Seen]:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from deployments.prefect.night import run_here
    from deployments.prefect.servers import prefect_server
    from ml.settings import Settings

    own = {os.getpid()}
    with prefect_server(Settings.from_environment()) as api, temporary_settings({PREFECT_API_URL: api}):
        for number in range(nights):
            start = time.perf_counter()
            run_here({"use_case": "load_peak", "as_of": str(FIRST + timedelta(days=number))})
            seconds = time.perf_counter() - start
            yield seconds, *measures(own)


def write_project(folder: Path) -> None:
    """load_peak with a window that its data fill from the first night on."""
    (folder / "use_cases").mkdir(parents=True)
    (folder / "use_cases" / "load_peak.py").write_text(LOAD_PEAK)
    os.environ["RETRAIN_PROJECT"] = str(folder)


def scheduled_nights(nights: int) -> Iterator[Seen]:
    """A schedule of every minute, which waits for its night to end; each is a process of its own."""
    from deployments.prefect.servers import free_port
    from ml.settings import Settings
    from ml.storage.ledger import Ledger
    from ml.storage.store import open_store

    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    up = subprocess.Popen([sys.executable, "-m", "deployments.cli", "up", *ports], stdout=subprocess.DEVNULL)
    ledger = Ledger(open_store(Settings.from_environment().store), "load_peak")
    try:
        for number in range(1, nights + 1):
            while len(ledger.nights()) < number or not ledger.is_published(ledger.nights()[number - 1]):
                assert up.poll() is None, "retrain up has ended"
                time.sleep(1)
            time.sleep(5)  # its process ends
            seconds = sum(ledger.nights()[number - 1].result["seconds"].values())
            yield seconds, *measures(tree(up.pid))
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait()


def print_thirds(seen: list[Seen]) -> None:
    third = max(2, len(seen) // 3)
    print("| nights | seconds a night | the quickest | processors | resident MB | open files | MB of store a night |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for first in range(0, len(seen) - third + 1, third):
        part = seen[first : first + third]
        seconds, _, resident, files, _ = (statistics.median(column) for column in zip(*part, strict=True))
        processors, stored = ((part[-1][n] - part[0][n]) / (third - 1) for n in (1, 4))
        quickest = min(night[0] for night in part)
        print(
            f"| {first + 1} to {first + third} | {seconds:.1f} | {quickest:.1f} | {processors:.1f} | {resident:.0f} "
            f"| {files:.0f} | {stored:.2f} |"
        )


def main() -> None:
    scheduled = "--scheduled" in sys.argv
    numbers = [int(word) for word in sys.argv[1:] if word.isdecimal()]
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RETRAIN_HOME"] = folder
        from deployments.environment import prepare_environment
        from ml.settings import Settings

        write_project(Path(folder) / "project")
        prepare_environment(Settings.from_environment())
        run = scheduled_nights if scheduled else nights_here
        seen = []
        for night in run(*(numbers or [10 if scheduled else 60])):
            seen.append(night)
            print(f"night {len(seen)}: " + "  ".join(f"{value:.1f}" for value in night), file=sys.stderr)
        print_thirds(seen)


if __name__ == "__main__":
    main()
