"""Every artifact's key in the store, spelled once. A key is a relative path with `/` between its parts.

A key that could leave the store is refused.
"""

from ml.errors import UsageError

SERVING_PREFIX = "retrain_serving_"  # how the code package in each of our models is called; its digest follows
FOLDERS = {
    "snapshots", "partitions", "stages", "mlflow", "ledger", "published", "aliases", "backfills", "attempts", "doctor",
    "replaced", "installation", "nights", "served",
}  # fmt: skip
NOTES = "aliases", "published"  # notes on ledger entries: each object is named after its entry
MADE_AGAIN = "partitions", "stages", "doctor", "nights"  # follow from data and ledger: nights can make them again
REPLACING = "replacing"
LONGEST_PART = 255  # bytes; file systems allow no longer names


def safe_key(key: str) -> str:
    """The key itself. Raises UsageError if it could leave the store, or if it is no plain printable ASCII."""
    parts = key.split("/")
    plain = key.isascii() and key.isprintable() and "\\" not in key
    if not plain or any(part in {"", ".", ".."} or len(part) > LONGEST_PART for part in parts):
        raise UsageError("a stored name has plain parts between /", f"it is {key!r}", "rename it")
    return key


def is_ours(key: str) -> bool:
    """Whether we write objects under such a key. Others may keep objects beside ours in the same bucket, and files of
    their own MLflow runs in our MLflow folder."""
    first, *more = key.split("/")
    return first in FOLDERS and (first != mlflow_root() or more[1:3] == ["artifacts", "model"])


def manifest(use_case: str, digest: str) -> str:
    """The manifest of a snapshot with this digest."""
    return f"snapshots/{use_case}/{digest}.json"


def partition_result(use_case: str, kind: str, key: str) -> str:
    """The kept result of one kind (verdict, cleaned) of one partition; `key` is its content key."""
    return f"partitions/{use_case}/{key}/{kind}.json"


def months(use_case: str, kind: str) -> str:
    """The kept results of one kind of all partitions, by month (`ml.storage.kept.KeptMonths`)."""
    return f"partitions/{use_case}/{kind}.json"


def quarantine(use_case: str, key: str) -> str:
    """The rows of a partition that its verdict put into quarantine."""
    return f"partitions/{use_case}/{key}/quarantine.parquet"


def cleaned_rows(use_case: str, key: str) -> str:
    """The cleaned rows of a partition."""
    return f"partitions/{use_case}/{key}/block.arrow"


def partitions(use_case: str) -> str:
    """The folder of everything kept of partitions."""
    return f"partitions/{use_case}"


def stages(use_case: str) -> str:
    """The folder of everything that stages keep."""
    return f"stages/{use_case}"


def stage(use_case: str, name: str, key: str) -> str:
    """The kept result of the stage `name`; `key` is its content key."""
    return f"stages/{use_case}/{name}/{key}.json"


def stage_file(use_case: str, name: str, key: str, file: str) -> str:
    """A file that a kept result of a stage points to."""
    return f"stages/{use_case}/{name}/{key}/{file}"


def checkpoint(use_case: str, training_key: str) -> str:
    """The state of a training that has not ended yet."""
    return stage_file(use_case, "train", training_key, "checkpoint")


def mlflow_root() -> str:
    """The folder of MLflow's artifacts."""
    return "mlflow"


def store_id() -> str:
    """The store's random identifier. Installations that share one MLflow know by it which entries there are theirs."""
    return "installation/id"


def run_folder(run_id: str) -> str:
    """The folder of one MLflow run."""
    return f"{mlflow_root()}/{run_id}"


def run_artifacts(run_id: str) -> str:
    """The artifacts of one MLflow run."""
    return f"{run_folder(run_id)}/artifacts"


def model_folder(run_id: str) -> str:
    """The packaged model of one MLflow run."""
    return f"{run_artifacts(run_id)}/model"


def ledgers() -> str:
    """The folder of all ledgers."""
    return "ledger"


def ledger_folder(use_case: str) -> str:
    """The folder of a use case's ledger."""
    return f"ledger/{use_case}"


def ledger_entry(use_case: str, seq: int) -> str:
    """One entry of a ledger."""
    return f"{ledger_folder(use_case)}/{seq:08d}.json"


def replacing(use_case: str) -> str:
    """A mark that lies beside the ledger's entries while a restore replaces them."""
    return f"{ledger_folder(use_case)}/{REPLACING}"


def published(use_case: str, seq: int) -> str:
    """A note that tags and report of an entry were written."""
    return f"published/{use_case}/{seq:08d}.json"


def alias_confirmation(use_case: str, seq: int) -> str:
    """A note that MLflow's alias was seen to follow an entry."""
    return f"aliases/{use_case}/{seq:08d}.json"


def night_beginning(use_case: str) -> str:
    """A note on the night that runs now."""
    return f"nights/{use_case}/beginning.json"


def red_night(use_case: str) -> str:
    """A note on the last night that ended with an error."""
    return f"nights/{use_case}/red.json"


def served_days(use_case: str) -> str:
    """The folder of what is kept of the days on which versions served."""
    return f"served/{use_case}"


def served_day(use_case: str, day: str, key: str) -> str:
    """How a version did on one day that it served; `key` is the result's content key."""
    return f"{served_days(use_case)}/{day}-{key}.json"


def backfills() -> str:
    """The folder of all backfills."""
    return "backfills"


def backfill_plan(digest: str) -> str:
    """The plan of a backfill; `digest` is the plan's."""
    return f"{backfills()}/{digest}/plan.json"


def backfill_controls(digest: str) -> str:
    """The folder of what operators asked of a backfill."""
    return f"{backfills()}/{digest}/controls"


def backfill_control(digest: str, number: int) -> str:
    """One request of an operator, numbered from 1."""
    return f"{backfill_controls(digest)}/{number:08d}.json"


def backfill_attempts(use_case: str) -> str:
    """The folder of the attempts of a use case's dates."""
    return f"attempts/{use_case}"


def backfill_start(use_case: str, as_of: str, number: int) -> str:
    """The start of an attempt. It sorts before the end of the same attempt."""
    return f"{backfill_attempts(use_case)}/{as_of}/{number:08d}-a-start.json"


def backfill_end(use_case: str, as_of: str, number: int) -> str:
    """The end of an attempt."""
    return f"{backfill_attempts(use_case)}/{as_of}/{number:08d}-b-end.json"


def replaced(stamp: str, key: str) -> str:
    """Where a restore puts an object that gives way; `stamp` is the time of the restore."""
    return f"replaced/{stamp}/{key}"
