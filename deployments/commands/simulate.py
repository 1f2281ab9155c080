"""`retrain simulate`: trains a candidate for every night of a year, and says which policy would have served best."""

import argparse
import logging
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from deployments.terminal import aligned, home_settings, require_use_case, say, show
from ml.errors import UsageError

log = logging.getLogger("retrain.simulation")
TOLD_SECONDS = 10.0


def simulate(options: argparse.Namespace) -> int:
    """Prints a table of policies, and one of faults; draws the served score over the year."""
    require_use_case(options.use_case)
    picture = _picture_path(options)
    home_settings()
    from ml.simulation.candidates import Candidates
    from ml.simulation.nights import nights_of
    from ml.simulation.report import simulate as simulated
    from ml.simulation.source import read_source
    from tasks.site import open_site

    site = open_site(options.use_case)
    log.info("Reading the whole source of %s.", options.use_case)
    rows = read_source(site)
    nights = nights_of(rows, first=options.first, count=options.nights, every=options.every)
    result = simulated(
        Candidates(site.store, rows), nights, seeds=options.seeds, every=options.every, jobs=options.jobs,
        with_faults=options.faults, told={what: _teller(what) for what in ("candidates", "candidates with a fault")},
    )  # fmt: skip
    if picture is not None:
        from ml.simulation.picture import draw

        draw(result, picture)
    show(options, {**asdict(result), "picture": None if picture is None else str(picture)}, "")
    if not options.json:
        from ml.simulation.words import lines

        say(*lines(result, aligned))
    return 0


def _picture_path(options: argparse.Namespace) -> Path | None:
    if options.picture is None:
        return None
    path = Path(options.picture)
    if path.suffix not in {".png", ".svg"}:
        raise UsageError("--picture names a .png or .svg file", f"it is {path.name}", "change its ending")
    if path.is_dir() or not path.parent.is_dir():
        raise UsageError("--picture names a file in a folder that is there", f"it is {path}", "make the folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError("--picture names a file that can be written", f"{path} cannot", "name another")
    return path


def _teller(what: str) -> Callable[[int, int], None]:
    """Tells how many candidates are there, at most every ten seconds, and how long the rest will take."""
    began: list[tuple[float, int]] = []
    last = [0.0]

    def told(done: int, total: int) -> None:
        now = time.monotonic()
        if not began:
            began.append((now, done))
        if now - last[0] < TOLD_SECONDS and done < total:
            return
        last[0] = now
        start, before = began[0]
        left = (now - start) / (done - before) * (total - done) if done > before else None
        soon = f", about {_duration(left)} left" if left else ""
        log.info("%s of %s %s are there%s.", f"{done:,}", f"{total:,}", what, soon)

    return told


def _duration(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds > 90 else f"{seconds:.0f} s"
