"""The stages that package the candidate, put its files into their place, and prove that they answer there as here."""

import tempfile
from functools import partial
from pathlib import Path

from ml.data.handles import Cleaned
from ml.data.partitions import side_rows, source_rows, undated_side_tables
from ml.digests import digest_file, digest_value
from ml.errors import ConfigError, without_passwords
from ml.models import packaging
from ml.models.handles import Fit, Upload, Verified
from ml.models.source_rows import Sample, Taken, rows_taken, sentence
from ml.pipeline.site import Site, resume
from ml.pipeline.train import require_same_code_and_machine
from ml.serving.own_code import OwnCode
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
    taken = _rows_taken(site, night, cleaned)
    with tempfile.TemporaryDirectory() as scratch:
        packaging.copy_files(site.store, fit.folder, fit.files, Path(scratch) / "fitted")
        own = _own_code(site, derives=taken.source is not None)
        model = package(site.use_case, site.rules, Path(scratch) / "fitted", night.threads, held_out, own)
        model.source, model.raw_only = taken.source, taken.raw_only
        loaded = (site.loaded.serving, site.loaded.deriving) if own.derive else (site.loaded.serving,)
        libraries = {library for code in loaded for library in code.libraries}
        packaging.write_model(model, site.use_case.model, Path(scratch) / "model", libraries=libraries)
        if recorded:
            _refuse_other_bytes(recorded, Path(scratch) / "model")
        files = packaging.upload_folder(site.store, Path(scratch) / "model", paths.model_folder(run_id))
    proof_key = partial(paths.stage_file, night.use_case, "upload", training_key)
    return Upload(
        run_id=run_id,
        folder=paths.model_folder(run_id),
        files=files,
        digest=digest_of_files(files),
        threshold=model.output.threshold if model.output.kind == "binary" else None,
        proof=packaging.make_proof(site.store, proof_key("proof.parquet"), model, held_out),
        source_proofs=tuple(
            packaging.make_source_proof(site.store, proof_key(f"source-proof-{number}.parquet"), model, rows)
            for number, rows in enumerate(taken.forms)
        ),
        takes=sentence(model.columns, model.source, model.raw_only),
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


def _own_code(site: Site, *, derives: bool) -> OwnCode:
    """The company's own code that travels inside a version: what serves its kind of model, and its derive if the
    version `derives`."""
    serving, deriving = site.loaded.serving, site.loaded.deriving
    if not derives:
        return OwnCode(serving.modules, serving.packages)
    modules = {**serving.modules, **deriving.modules}
    return OwnCode(modules, serving.packages | deriving.packages, deriving.source)


def _rows_taken(site: Site, night: Night, cleaned: Cleaned) -> Taken:
    """Which rows the version takes besides raw rows, tried on the newest day of validation."""
    use_case, reader = site.use_case, site.reader(cleaned)
    if use_case.derive is None and not use_case.side_tables:
        return Taken()
    place = site.settings, use_case, reader.manifest
    day = reader.of_part(night.as_of, "validation")[-1].day
    sample = Sample(
        rows=source_rows(*place, day), sides=side_rows(*place, day), undated=undated_side_tables(*place[1:])
    )
    why_not = site.loaded.deriving.why_not
    derive = None if use_case.derive is None or why_not else _own_code(site, derives=True).derive_function()
    return rows_taken(use_case, derive, why_not, sample)


def verify_candidate(site: Site, training_key: str, upload: Upload) -> Verified:
    """Reads the model back from its place, loads it in a fresh process, and compares its answers with the proof bit by
    bit. Raises Corrupt if a file is damaged or an answer differs."""

    def verify() -> Verified:
        rows = packaging.prove(
            site.store, fetch(site, upload.folder, upload.files), upload.proof, *upload.source_proofs
        )
        return Verified(files=len(upload.files), rows=rows)

    return resume(site, Verified, "verify", digest_value([training_key, upload.digest]), verify)


def fetch(site: Site, folder: str, files: tuple[FileRef, ...]) -> Path:
    """A folder on this disk with the model's files. Raises Corrupt if one of them is damaged."""
    return packaging.fetch_model(site.store, folder, files, site.settings.home / "cache")
