"""The stages that package a fitted model, put its files into their place, and prove that they answer there as here."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ml.data.handles import Cleaned
from ml.data.partitions import side_rows, source_rows, undated_side_tables
from ml.digests import digest_file, digest_value
from ml.errors import ConfigError, without_passwords
from ml.models import packaging
from ml.models.handles import Fit, Upload, Verified
from ml.models.source_rows import Sample, Taken, rows_taken, sentence
from ml.pipeline.site import Site, kept_results, resume
from ml.pipeline.train import require_same_code_and_machine
from ml.serving.output import Output
from ml.serving.own_code import OwnCode
from ml.storage import paths
from ml.storage.records import FileRef, Night, Registered, digest_of_files

if TYPE_CHECKING:
    from ml.serving.model import PackagedModel


@dataclass(frozen=True, kw_only=True)
class Shipment:
    """A fitted model that is to become a version: its training key, how its MLflow run is called, and the version that
    the ledger has under this key already, if it has one. `output` has the threshold and the calibration if an earlier
    fit chose them.
    """

    key: str
    fit: Fit
    run_name: str
    tags: Mapping[str, str]
    recorded: Registered | None
    output: Output | None = None


def upload_candidate(site: Site, night: Night, training_key: str, cleaned: Cleaned, fit: Fit) -> Upload:
    """Uploads tonight's candidate."""
    shipment = Shipment(
        key=training_key,
        fit=fit,
        run_name=f"{night.use_case} {night.as_of}",
        tags={"use_case": night.use_case, "as_of": str(night.as_of)},
        recorded=site.ledger.trained(training_key),
    )
    return upload(site, night, shipment, cleaned)


def upload(site: Site, night: Night, shipment: Shipment, cleaned: Cleaned) -> Upload:
    """Packages the model with its code and puts every file into the folder of its MLflow run. Also keeps a proof
    for `verify`: validation rows with the model's answers."""
    return resume(
        site, Upload, "upload", _upload_key(site, shipment.key), lambda: _upload(site, night, shipment, cleaned)
    )


def uploaded(site: Site, training_key: str) -> Upload | None:
    """What was uploaded under this training key before; None if nothing was. Its files may be damaged."""
    key = _upload_key(site, training_key)
    return kept_results(site, Upload, "upload").find([key]).get(key)


def _upload_key(site: Site, training_key: str) -> str:
    """Another MLflow needs a run of its own."""
    return digest_value([training_key, without_passwords(site.settings.tracking_uri)])


def _upload(site: Site, night: Night, shipment: Shipment, cleaned: Cleaned) -> Upload:
    require_same_code_and_machine(site, night)
    recorded = shipment.recorded  # if it was, its files are made again in their old folder
    known = recorded.run_id if recorded else None
    run_id = site.registry.run_id(shipment.key, shipment.run_name, shipment.tags, known)
    held_out = site.reader(cleaned).raw_rows(night.as_of, "validation")
    taken = _rows_taken(site, night, cleaned)
    with tempfile.TemporaryDirectory() as scratch:
        own = own_code(site, derives=taken.source is not None)
        model = packaged(site, night, shipment.fit, Path(scratch) / "fitted", held_out, own, shipment.output)
        model.source, model.raw_only = taken.source, taken.raw_only
        loaded = (site.loaded.serving, site.loaded.deriving) if own.derive else (site.loaded.serving,)
        libraries = {library for code in loaded for library in code.libraries}
        packaging.write_model(model, site.use_case.model, Path(scratch) / "model", libraries=libraries)
        if recorded:
            _refuse_other_bytes(recorded, Path(scratch) / "model")
        files = packaging.upload_folder(site.store, Path(scratch) / "model", paths.model_folder(run_id))
    proof_key = partial(paths.stage_file, night.use_case, "upload", shipment.key)
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
        calibration=model.output.calibration,
        decides=model.output.decides,
    )


def packaged(
    site: Site, night: Night, fit: Fit, folder: Path, held_out: pd.DataFrame, own: OwnCode, output: Output | None
) -> "PackagedModel":
    """The fitted model as it answers raw rows. Its files are copied into the new folder, which must stay meanwhile."""
    from ml.models.training import package

    packaging.copy_files(site.store, fit.folder, fit.files, folder)
    return package(site.use_case, site.rules, folder, night.threads, held_out, own, output)


def _refuse_other_bytes(recorded: Registered, folder: Path) -> None:
    """Raises ConfigError if the version that is there has other files: they may serve, and are never written over."""
    made = {path.relative_to(folder).as_posix(): digest_file(path) for path in folder.rglob("*") if path.is_file()}
    kept = {file.key.removeprefix(f"{recorded.folder}/"): file.digest for file in recorded.files}
    if made != kept:
        raise ConfigError(
            "a model that is made again has the bytes that it had",
            f"those of version {recorded.version} are others",
            "run it with --again REASON, as another version",
        )


def own_code(site: Site, *, derives: bool) -> OwnCode:
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
    derive = None if use_case.derive is None or why_not else own_code(site, derives=True).derive_function()
    return rows_taken(use_case, derive, why_not, sample)


def verify(site: Site, key: str, upload: Upload) -> Verified:
    """Reads the model back from its place, loads it in a fresh process, and compares its answers with the proof bit by
    bit. Raises Corrupt if a file is damaged or an answer differs."""

    def make() -> Verified:
        rows = packaging.prove(
            site.store, fetch(site, upload.folder, upload.files), upload.proof, *upload.source_proofs
        )
        return Verified(files=len(upload.files), rows=rows)

    return resume(site, Verified, "verify", digest_value([key, upload.digest]), make)


def fetch(site: Site, folder: str, files: tuple[FileRef, ...]) -> Path:
    """A folder on this disk with the model's files. Raises Corrupt if one of them is damaged."""
    return packaging.fetch_model(site.store, folder, files, site.settings.home / "cache")
