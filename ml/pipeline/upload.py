"""The stages that package the candidate, put its files into their place, and prove that they answer there as here."""

import tempfile
from pathlib import Path

from ml.data.handles import Cleaned
from ml.digests import digest_file, digest_value
from ml.errors import ConfigError, without_passwords
from ml.models import packaging
from ml.models.handles import Fit, Upload, Verified
from ml.pipeline.site import Site, resume
from ml.pipeline.train import require_same_code_and_machine
from ml.storage import paths
from ml.storage.records import Champion, FileRef, Night, digest_of_files


def upload_candidate(site: Site, night: Night, training_key: str, cleaned: Cleaned, fit: Fit) -> Upload:
    """Packages the model with its code and puts every file into the folder of its MLflow run. Also keeps a proof
    for `verify_candidate`: validation rows with the model's answers."""
    place = without_passwords(site.settings.tracking_uri)
    key = digest_value([training_key, place])  # another MLflow needs a run of its own
    return resume(site, Upload, "upload", key, lambda: _upload(site, night, training_key, cleaned, fit))


def _upload(site: Site, night: Night, training_key: str, cleaned: Cleaned, fit: Fit) -> Upload:
    from ml.models.training import package

    require_same_code_and_machine(site, night)
    name = f"{night.use_case} {night.as_of}"
    tags = {"use_case": night.use_case, "as_of": str(night.as_of)}
    recorded = site.ledger.trained(training_key)  # if it was, its files are made again in their old folder
    run_id = site.registry.run_id(training_key, name, tags, recorded.run_id if recorded else None)
    held_out = site.reader(cleaned).raw_rows(night.as_of, "validation")
    with tempfile.TemporaryDirectory() as scratch:
        packaging.copy_files(site.store, fit.folder, fit.files, Path(scratch) / "fitted")
        model = package(site.use_case, site.rules, Path(scratch) / "fitted", night.threads, held_out)
        packaging.write_model(model, site.use_case.model, Path(scratch) / "model")
        if recorded:
            _refuse_other_bytes(recorded, Path(scratch) / "model")
        files = packaging.upload_folder(site.store, Path(scratch) / "model", paths.model_folder(run_id))
    proof_key = paths.stage_file(night.use_case, "upload", training_key, "proof.parquet")
    return Upload(
        run_id=run_id,
        folder=paths.model_folder(run_id),
        files=files,
        digest=digest_of_files(files),
        threshold=model.output.threshold if model.output.kind == "binary" else None,
        proof=packaging.make_proof(site.store, proof_key, model, held_out),
    )


def _refuse_other_bytes(recorded: Champion, folder: Path) -> None:
    """Raises ConfigError if the version that is there has other files: they may serve, and are never written over."""
    made = {path.relative_to(folder).as_posix(): digest_file(path) for path in folder.rglob("*") if path.is_file()}
    kept = {file.key.removeprefix(f"{recorded.folder}/"): file.digest for file in recorded.files}
    if made != kept:
        raise ConfigError(
            "a model that is made again has the bytes that it had",
            f"those of version {recorded.version} are others",
            "run it with --again REASON, as another version",
        )


def verify_candidate(site: Site, training_key: str, upload: Upload) -> Verified:
    """Reads the model back from its place, loads it in a fresh process, and compares its answers with the proof bit by
    bit. Raises Corrupt if a file is damaged or an answer differs."""

    def verify() -> Verified:
        rows = packaging.prove(site.store, fetch(site, upload.folder, upload.files), upload.proof)
        return Verified(files=len(upload.files), rows=rows)

    return resume(site, Verified, "verify", digest_value([training_key, upload.digest]), verify)


def fetch(site: Site, folder: str, files: tuple[FileRef, ...]) -> Path:
    """A folder on this disk with the model's files. Raises Corrupt if one of them is damaged."""
    return packaging.fetch_model(site.store, folder, files, site.settings.home / "cache")
