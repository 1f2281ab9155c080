"""The stage that trains: the use case's estimator is fitted, and the weights of its best epoch are kept.

Torch is imported inside the functions that use it, because a night with nothing new needs none of it.
"""

import logging
from contextlib import nullcontext

from ml.code import require_unchanged
from ml.data.handles import Cleaned, Split
from ml.errors import ConfigError
from ml.models.handles import Epoch, Fit
from ml.pipeline.machine import this_machine
from ml.pipeline.site import Site, kept_results, resume
from ml.serving.features import Encoder
from ml.storage import paths
from ml.storage.json_form import from_json
from ml.storage.locks import fit_turn
from ml.storage.records import Night
from ml.storage.store import get_file, put_file

log = logging.getLogger("retrain.model")


def train_candidate(site: Site, night: Night, run_key: str, cleaned: Cleaned, split: Split, *, nightly: bool) -> Fit:
    """Fits the use case's estimator and keeps the weights of the best validation epoch.

    One model at a time is fitted on this machine, and a night (`nightly`) goes before a backfill's dates. A fit that
    was killed goes on from its checkpoint.
    """
    kept = kept_results(site, Fit, "train").whole(run_key)
    with nullcontext() if kept else fit_turn(site.settings.home, nightly=nightly):
        fit = resume(site, Fit, "train", run_key, lambda: _fit(site, night, run_key, cleaned, split))
    site.store.delete(paths.checkpoint(night.use_case, run_key))  # no longer needed: the result is kept
    return fit


def _fit(site: Site, night: Night, run_key: str, cleaned: Cleaned, split: Split) -> Fit:
    import torch
    from safetensors.torch import save

    from ml.models.training import StoredCheckpoints, encode, fit_candidate

    require_same_code_and_machine(site, night)
    torch.set_num_threads(night.threads)
    encoder = encoder_of(site, split)
    train, validation = (
        encode(site.use_case, encoder, site.reader(cleaned).part_frames(night.as_of, part))
        for part in ("train", "validation")
    )
    total = site.use_case.model.epochs

    def tell(epoch: Epoch) -> None:
        log.info("%s", _progress(epoch, total))

    rows, inputs = train[0].shape
    log.info("Training on %s with %d thread(s): %s rows, %d inputs.", night.device, night.threads, f"{rows:,}", inputs)
    checkpoints = StoredCheckpoints(site.store, paths.checkpoint(night.use_case, run_key))
    fitted = fit_candidate(site.use_case, night, encoder, train, validation, tell, checkpoints)
    weights = save({name: weight.contiguous() for name, weight in fitted.network_.state_dict().items()})
    key = paths.stage_file(night.use_case, "train", run_key, "weights.safetensors")
    return Fit(
        weights=put_file(site.store, key, weights),
        best_epoch=fitted.best_epoch_,
        epochs=tuple(fitted.epochs_),
        target_mean=getattr(fitted, "mean_", 0.0),
        target_std=getattr(fitted, "std_", 1.0),
        device=fitted.device_,
        threads=night.threads,
        notes=fitted.notes_,
    )


def _progress(epoch: Epoch, total: int) -> str:
    score = "undefined" if epoch.validation_score is None else f"{epoch.validation_score:.3f}"
    return (
        f"Epoch {epoch.epoch} of {total}: train loss {epoch.train_loss:.4f}, "
        f"validation loss {epoch.validation_loss:.4f}, validation score {score}."
    )


def require_same_code_and_machine(site: Site, night: Night) -> None:
    """Raises ConfigError if our code, the device or the CPU's instructions are not those that the night began with.

    Call it after torch was imported, so that torch itself says which device there is.
    """
    require_unchanged()
    machine = this_machine(site.settings.home)
    if (machine.device, machine.instructions) != (night.device, night.instructions):
        raise ConfigError(
            "a machine stays as it is during a night", f"torch now says {machine.device}", "run the same command again"
        )


def encoder_of(site: Site, split: Split) -> Encoder:
    """The encoder that was fitted to the train rows. Raises Corrupt if its file is damaged."""
    return from_json(Encoder, get_file(site.store, split.encoder))
