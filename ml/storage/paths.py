"""Every artifact's key in the store, spelled once. Keys are relative, with `/` between their parts."""

from ml.errors import UsageError

SERVING_PREFIX = "retrain_serving_"  # of the package inside each model of ours; its serving code's digest follows
FOLDERS = {
    "snapshots", "partitions", "stages", "mlflow", "ledger", "published", "aliases", "backfills", "attempts", "doctor",
    "replaced", "installation", "nights",
}  # fmt: skip
NOTES = "aliases", "published"  # what was noted of ledger entries: each object has the name of its entry
MADE_AGAIN = "partitions", "stages", "doctor", "nights"  # what follows from data and ledger: nights make it again
REPLACING = "replacing"
LONGEST_PART = 255  # bytes that a file's name may have


def safe_key(key: str) -> str:
    """The key itself. Raises UsageError for one that could leave the store."""
    parts = key.split("/")
    plain = key.isascii() and key.isprintable() and "\\" not in key
    if not plain or any(part in {"", ".", ".."} or len(part) > LONGEST_PART for part in parts):
        raise UsageError("a stored name has plain parts between /", f"it is {key!r}", "rename it")
    return key


def is_ours(key: str) -> bool:
    """Whether we write to places of this name: others may keep objects beside ours, and files of their own runs below
    the root of MLflow."""
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
    """What tells this store from any other, so that installations which share an MLflow know what is theirs there."""
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
    """Stands beside the entries while a restore replaces them."""
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
