"""The stage that splits: which cleaned rows are train, validation and test; and the statistics of the train rows."""

import logging
from dataclasses import replace

from ml.data.handles import Cleaned, Split
from ml.data.split import describe, fit_until, share_of_known_groups, split_digest
from ml.data.window_sums import WindowSums
from ml.digests import digest_value
from ml.pipeline.site import Site, resume
from ml.storage import paths
from ml.storage.json_form import to_json
from ml.storage.records import Night, Work, with_work
from ml.storage.store import put_file

log = logging.getLogger("retrain.data")


def split_rows(site: Site, night: Night, cleaned: Cleaned) -> Split:
    """Splits by day, or by key in a use case without days, and keeps the statistics of the train rows.

    The statistics of the window are summed from those of its months, and only new months are counted.
    """
    key = digest_value([cleaned.digest, str(night.as_of), night.use_case_digest, night.code_digest])
    sums = WindowSums(site.reader(cleaned), night.as_of)
    if (counted := sums.reader.counted(night.as_of)) is not None:
        key = digest_value([key, counted])
    split = resume(site, Split, "split", key, lambda: _make_split(site, night, sums, key))
    if sums.taken_otherwise and sums.computed and not cleaned.work.computed:  # else validation has said why
        log.warning("The statistics of the window are taken again: what is learnt, or the code that counts, changed.")
    reused = cleaned.partitions if split.work.reused else sums.reused
    return with_work(split, Work(stage="", reused=reused, computed=sums.computed))


def _make_split(site: Site, night: Night, sums: WindowSums, key: str) -> Split:
    use_case, totals = site.use_case, sums.totals()
    parts = {part: describe(use_case, part, total.statistics, total.days) for part, total in totals.items()}
    train_rows, test_rows = (sums.reader.part_frames(night.as_of, part) for part in ("train", "test"))
    group_in_train = share_of_known_groups(use_case, train_rows, test_rows)
    statistics = to_json(totals["train"].statistics)
    file = put_file(site.store, paths.stage_file(use_case.name, "split", key, "statistics.json"), statistics)
    known_at = str(night.as_of) if use_case.known_at_column else None
    test_partitions = [partition.digests for partition in sums.reader.of_part(night.as_of, "test")]
    return Split(
        digest=digest_value([key, file.digest]),
        statistics=file,
        fit_until=fit_until(use_case, night.as_of, sums.reader.counted(night.as_of)),
        test_digest=digest_value([test_partitions, split_digest(use_case), known_at]),
        train=parts["train"],
        validation=parts["validation"],
        test=replace(parts["test"], group_in_train=group_in_train),
    )
