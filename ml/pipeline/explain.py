"""The stage that explains: it measures which columns the answers of tonight's packaged model rest on.

The result is kept under the model's digest, the test rows and the code, so that a replay measures nothing again.
"""

from copy import copy
from functools import partial
from pathlib import Path

import pandas as pd

from ml.data.handles import Cleaned, Split
from ml.digests import digest_value
from ml.evaluation.code import EXPLAINING
from ml.evaluation.explanation import AnswersOf, Explanation, explain
from ml.evaluation.judging import NoAnswer, model_answers
from ml.metrics.scores import Answers
from ml.models.description import description
from ml.models.handles import Upload
from ml.pipeline.evaluate import told
from ml.pipeline.site import Site, resume
from ml.pipeline.upload import fetch
from ml.serving.model import RAW
from ml.storage import registry
from ml.storage.records import Night

STAGE = "explain"


def explain_candidate(site: Site, night: Night, cleaned: Cleaned, split: Split, upload: Upload) -> Explanation:
    """The importance of the columns of tonight's model. If it does not answer shuffled rows, the result says why, and
    the night goes on without it."""
    key = digest_value([upload.digest, split.test_digest, EXPLAINING.digest, site.use_case.metric, site.use_case.group])
    return resume(site, Explanation, STAGE, key, lambda: _explain(site, night, cleaned, split, upload))


def _explain(site: Site, night: Night, cleaned: Cleaned, split: Split, upload: Upload) -> Explanation:
    test, use_case = site.reader(cleaned).raw_rows(night.as_of, "test"), site.use_case
    folder = fetch(site, upload.folder, upload.files)
    kind = description(folder)["kind"]
    try:
        answers_of = _without_rules(site, folder)
        return explain(use_case, answers_of, test, kind, split.test_digest)
    except NoAnswer as error:
        return Explanation(
            test_rows=len(test), reason=f"the model does not answer rows whose values are shuffled: {error}"
        )


def _without_rules(site: Site, folder: Path) -> AnswersOf:
    """The model's answers to raw rows, whatever rule they break: a rule that compares columns breaks where one of them
    is shuffled."""
    packaged = copy(told(lambda: registry.load_model(folder)).get_raw_model())
    packaged.rules = ()
    predict = partial(packaged.answers, form=RAW)

    def answers_of(rows: pd.DataFrame) -> Answers:
        return told(lambda: model_answers(site.use_case, predict, rows))

    return answers_of
