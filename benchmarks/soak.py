"""Nights in a row in one process: `python benchmarks/soak.py [NIGHTS]` prints what early and late nights cost.

Real hours of 17 homes (load_peak), from 2017-06-01 on, in a fresh home. Memory, open files and time a night must stay
flat, and the disk must grow by the same for each night.
"""

import os
import statistics
import sys
import tempfile
import time
from datetime import date, timedelta
from pathlib import Path

FIRST = date(2017, 6, 1)


def resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def main() -> None:
    nights = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RETRAIN_HOME"] = folder
        from deployments.environment import prepare_environment
        from ml.settings import Settings

        settings = Settings.from_environment()
        prepare_environment(settings)
        from prefect.settings import PREFECT_API_URL, temporary_settings

        from deployments.night import run_here
        from deployments.servers import prefect_server
        from ml.store import open_store

        seen = []
        with prefect_server(settings) as api, temporary_settings({PREFECT_API_URL: api}):
            for number in range(nights):
                start = time.perf_counter()
                run_here({"use_case": "load_peak", "as_of": str(FIRST + timedelta(days=number))})
                seconds, disk = time.perf_counter() - start, sum(open_store(settings.store).sizes().values())
                seen.append((seconds, resident_megabytes(), float(open_files()), disk / 1e6))
                print(f"night {number + 1}: " + "  ".join(f"{value:.1f}" for value in seen[-1]), file=sys.stderr)
    tenth = max(1, nights // 6)
    early, late = seen[1 : 1 + tenth], seen[-tenth:]
    print(f"| of {nights} nights | seconds a night | resident MB | open files | MB of store a night |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, part, growth in (("early", early, seen[: 2 + tenth]), ("late", late, seen[-tenth - 1 :])):
        middle = [statistics.median(column) for column in zip(*part, strict=True)]
        stored = (growth[-1][3] - growth[0][3]) / (len(growth) - 1)
        print(f"| {name} {len(part)} | {middle[0]:.1f} | {middle[1]:.0f} | {middle[2]:.0f} | {stored:.2f} |")


if __name__ == "__main__":
    main()
