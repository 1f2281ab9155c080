"""The keys of a night. The training key names what is learnt, the run key what is decided about it.

Each is one SHA-256 over everything that decides its result, and over nothing else. A git commit is never part of it.
A version is known by its training key, and the ledger's entry by its run key: other gates are another run, which judges
the model that is there. Which code a key covers, the packages declare (`ml/code.py`).
"""

from ml.code import Code
from ml.data.code import ROWS
from ml.digests import digest_value
from ml.models.code import FITTING, learner_code
from ml.models.protocol import Learner
from ml.storage.records import Night


def training_key(night: Night, snapshot_digest: str) -> str:
    """The key of what a night learns. Nights with the same training key make the same version, once.

    Without dates as_of decides nothing about a model, so it is not part of the key.
    """
    return digest_value([*_what_is_learnt(night, snapshot_digest), str(night.as_of) if night.dated else None])


def run_key(night: Night, snapshot_digest: str) -> str:
    """The key of a run. A run with the same key is finished at most once."""
    return digest_value([training_key(night, snapshot_digest), *_how_it_is_judged(night), str(night.as_of)])


def learning_key(night: Night, snapshot_digest: str) -> str:
    """The run key without the date. Two nights with the same learning key would learn and decide the same, so the
    second one decides NOTHING_NEW."""
    return digest_value([*_what_is_learnt(night, snapshot_digest), *_how_it_is_judged(night)])


def _what_is_learnt(night: Night, snapshot_digest: str) -> list[str | int | None]:
    return [
        snapshot_digest,
        night.use_case_digest,
        night.code_digest,
        night.instructions,
        night.device,
        night.threads,
        night.seed,
        night.again,
    ]


def _how_it_is_judged(night: Night) -> list[str]:
    return [night.use_case, night.judging_digest]


def training_code(learner: Learner) -> Code:
    """What of our code, and which libraries, decide the version that this kind of model becomes."""
    return ROWS + FITTING + learner_code(learner)
