"""What the stages of a night returned: the input of its report."""

import dataclasses
from dataclasses import dataclass

from ml.data.handles import Checks, Cleaned, Snapshot, Split
from ml.evaluation.handles import Evaluations, Judgement
from ml.evaluation.served import Served
from ml.models.handles import Fit, Upload, Verified
from ml.storage.records import Work


@dataclass(frozen=True, kw_only=True)
class Trail:
    """The result of every stage of a night, in the order of the stages."""

    snapshot: Snapshot
    checks: Checks
    cleaned: Cleaned
    split: Split
    fit: Fit
    upload: Upload
    verified: Verified
    served: Served
    evaluations: Evaluations
    judgement: Judgement

    @property
    def work(self) -> tuple[Work, ...]:
        """What every stage cost."""
        return tuple(getattr(self, field.name).work for field in dataclasses.fields(self))
