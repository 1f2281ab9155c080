"""What the stages of a night returned: the input of its report."""

import dataclasses
from dataclasses import dataclass

from ml.data.handles import Checks, Cleaned, Snapshot, Split
from ml.evaluation.explanation import Explanation
from ml.evaluation.handles import DefaultTrees, Evaluations, Judgement, SourceWatch
from ml.evaluation.served import Served
from ml.models.handles import Fit, Refitted, Upload, Verified
from ml.storage.records import Work


@dataclass(frozen=True, kw_only=True)
class Trail:
    """The result of every stage of a night, in the order of the stages. The last three are None if there was no refit,
    or if it was refused."""

    snapshot: Snapshot
    checks: Checks
    cleaned: Cleaned
    split: Split
    fit: Fit
    upload: Upload
    verified: Verified
    watch: SourceWatch
    evaluations: Evaluations
    judgement: Judgement
    served: Served | None = None
    default_trees: DefaultTrees | None = None
    explanation: Explanation | None = None
    refitted: Refitted | None = None
    refit_upload: Upload | None = None
    refit_verified: Verified | None = None

    @property
    def work(self) -> tuple[Work, ...]:
        """What every stage cost."""
        handles = (getattr(self, field.name) for field in dataclasses.fields(self))
        return tuple(handle.work for handle in handles if handle is not None)
