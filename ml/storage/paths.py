"""Every artifact's key in the store, spelled once. A key is a relative path with `/` between its parts.

A key that could leave the store is refused.
"""

from ml.errors import UsageError

SERVING_PREFIX = "retrain_serving_"  # how the code package in each of our models is called; its digest follows
FOLDERS = {
    "snapshots", "partitions", "stages", "mlflow", "ledger", "published", "aliases", "backfills", "attempts", "doctor",
    "replaced", "installation", "nights",
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
    return f"snapshots/{use_case}/{digest}.json"


def partition_result(use_case: str, kind: str, key: str) -> str:
    return f"partitions/{use_case}/{key}/{kind}.json"


def months(use_case: str, kind: str) -> str:
    return f"partitions/{use_case}/{kind}.json"


def quarantine(use_case: str, key: str) -> str:
    return f"partitions/{use_case}/{key}/quarantine.parquet"


def cleaned_rows(use_case: str, key: str) -> str:
    return f"partitions/{use_case}/{key}/block.arrow"


def partitions(use_case: str) -> str:
    return f"partitions/{use_case}"


def stages(use_case: str) -> str:
    return f"stages/{use_case}"


def stage(use_case: str, name: str, key: str) -> str:
    return f"stages/{use_case}/{name}/{key}.json"


def stage_file(use_case: str, name: str, key: str, file: str) -> str:
    return f"stages/{use_case}/{name}/{key}/{file}"


def checkpoint(use_case: str, run_key: str) -> str:
    return stage_file(use_case, "train", run_key, "checkpoint")


def mlflow_root() -> str:
    return "mlflow"


def store_id() -> str:
    """The store's random identifier. Installations that share one MLflow know by it which entries there are theirs."""
    return "installation/id"


def run_folder(run_id: str) -> str:
    return f"{mlflow_root()}/{run_id}"


def run_artifacts(run_id: str) -> str:
    return f"{run_folder(run_id)}/artifacts"


def model_folder(run_id: str) -> str:
    return f"{run_artifacts(run_id)}/model"


def ledgers() -> str:
    return "ledger"


def ledger_folder(use_case: str) -> str:
    return f"ledger/{use_case}"


def ledger_entry(use_case: str, seq: int) -> str:
    return f"{ledger_folder(use_case)}/{seq:08d}.json"


def replacing(use_case: str) -> str:
    """A mark that lies beside the ledger's entries while a restore replaces them."""
    return f"{ledger_folder(use_case)}/{REPLACING}"


def published(use_case: str, seq: int) -> str:
    return f"published/{use_case}/{seq:08d}.json"


def alias_confirmation(use_case: str, seq: int) -> str:
    return f"aliases/{use_case}/{seq:08d}.json"


def night_beginning(use_case: str) -> str:
    return f"nights/{use_case}/beginning.json"


def red_night(use_case: str) -> str:
    return f"nights/{use_case}/red.json"


def backfills() -> str:
    return "backfills"


def backfill_plan(digest: str) -> str:
    return f"{backfills()}/{digest}/plan.json"


def backfill_controls(digest: str) -> str:
    return f"{backfills()}/{digest}/controls"


def backfill_control(digest: str, number: int) -> str:
    return f"{backfill_controls(digest)}/{number:08d}.json"


def backfill_attempts(use_case: str) -> str:
    return f"attempts/{use_case}"


def backfill_start(use_case: str, as_of: str, number: int) -> str:
    return f"{backfill_attempts(use_case)}/{as_of}/{number:08d}-a-start.json"


def backfill_end(use_case: str, as_of: str, number: int) -> str:
    return f"{backfill_attempts(use_case)}/{as_of}/{number:08d}-b-end.json"


def replaced(stamp: str, key: str) -> str:
    return f"replaced/{stamp}/{key}"
