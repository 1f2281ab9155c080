"""A night in words: every reader sees the same document, and nothing undefined is shown as a number."""

import json
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pytest

from ml.data.handles import Checks, Cleaned, LeftOut, Move, RuleCount, Snapshot, Split, SplitRows, Undeclared
from ml.evaluation.handles import Evaluations, Interval, Judgement, ModelScores, SourceWatch, Verdict
from ml.models.handles import Fit, Refitted, Step, Upload, Verified
from ml.reporting.data_section import data_sentences
from ml.reporting.decision_section import champion_sentence, champion_then, headline
from ml.reporting.document import dry_run_document, nothing_new_document, result_document
from ml.reporting.page import markdown
from ml.reporting.score_section import (
    cell,
    comparison_sentence,
    model_metrics,
    resolution_sentence,
    score_list,
    score_rows,
)
from ml.reporting.trail import Trail
from ml.reporting.words import window_words
from ml.storage.json_form import to_json
from ml.storage.records import Champion, DecisionName, FileRef, Refit, Work
from tests.tiny import night, tills

FILE = FileRef(key="a/b", size=3, digest="0" * 64)


def rows(number: int) -> SplitRows:
    return SplitRows(rows=number, positive_share=0.25, first_day="2024-02-01", last_day="2024-02-28")


def scores(who: str, f1: Interval) -> ModelScores:
    return ModelScores(
        who=who,
        description=f"what {who} is",
        scores={"f1": f1, "precision": Interval(value=None, reason="no row"), "pr_auc": Interval(value=0.6)},
        confusion=((3, 1), (0, 2)),
    )


def verdict(name: Any, **figures: float) -> Verdict:
    return Verdict(gate="BetterThanRule f1", verdict=name, reason="so it is", figures=dict(figures))


def trail(decision: DecisionName = "PROMOTE", against: Verdict | None = None, **checks: Any) -> Trail:
    found: dict[str, Any] = {
        "quarantined_days": {},
        "left_out": {"2024-01-07": "it is missing"},
        "undeclared": Undeclared(days=1, most=2, names={"ape": 1, "zebra": 1}),
        "broken": (RuleCount(rule="x is present", scope="row", severity="error", evaluated=9, unexpected=4),),
    }
    return Trail(
        snapshot=snapshot(),
        checks=Checks(
            work=Work(stage="validate partitions", seconds=1.25, reused=3, computed=1),
            digest="d", months={}, rows=12_345, duplicates=2, quarantined=17, unlabelled=5, rules=4,
            **{**found, **checks},
        ),
        cleaned=Cleaned(manifest="m", digest="d", months={}, rows=1),
        split=Split(
            digest="d", statistics=FILE, train=rows(9000), validation=rows(1000), test=rows(2000), fit_until=None,
            test_digest="t",
        ),
        fit=Fit(
            kind="NetworkClassifier", folder="f", files=(FILE,), step_name="epoch", best=2, device="cpu", threads=1,
            steps=tuple(Step(number=n, train_loss=1, validation_loss=1, validation_score=None) for n in (1, 2, 3)),
        ),
        upload=Upload(run_id="run", folder="f", files=(FILE,), digest="d", threshold=0.4, proof=FILE),
        verified=Verified(files=1, rows=5),
        evaluations=Evaluations(
            test_digest="t", rows=2000, units=28, unit="day", not_comparable={}, evidence=FILE, answers=FILE,
            models={
                "candidate": scores("candidate", Interval(value=0.7381, low=0.72, high=0.755)),
                "rule": scores("rule", Interval(value=None, reason="no row")),
            },
        ),
        watch=SourceWatch(),
        judgement=Judgement(
            verdicts=(verdict("PASS", low=0.1),), decision=decision, reason="All gates allow it.",
            proved_better=True, against_rule=against,
        ),
    )  # fmt: skip


def snapshot() -> Snapshot:
    return Snapshot(
        work=Work(stage="take snapshot", seconds=0.5, computed=1), digest="s" * 64, manifest="m", partitions=59,
        first_day="2024-01-01", last_day="2024-02-28", missing_days=(), excluded={}, changed_days=("2024-01-03",),
        left_out=(LeftOut(source="sales.csv", what="row", count=2, why="have no at and belong to no day"),),
    )  # fmt: skip


def champion(version: int) -> Champion:
    return Champion(
        version=version, run_id="r", as_of=date(2024, 2, 1), fit_until=None, target_digest="t", split_digest="s",
        folder="f", files=(),
    )  # fmt: skip


def document(decision: DecisionName = "PROMOTE", before: int | None = 3, after: int | None = 4, **more: Any) -> Any:
    old, new = (None if version is None else champion(version) for version in (before, after))
    return result_document(tills(), night(use_case="tills"), "k" * 64, trail(decision, **more), champion(4), old, new)


def of_fit(reused: int = 0, seconds: float | None = 3.46, **training: Any) -> Any:
    made = document()
    stages = {} if seconds is None else {"train candidate": seconds}
    fit = {**made["training"], **training}
    return {
        **made,
        "training": fit,
        "seconds": stages,
        "reused": {"train candidate": reused},
        "computed": {**made["computed"], "train candidate": 1},
    }


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (of_fit(model="Trees", step="tree", epochs=198, best_epoch=168),
         "Fitted: Trees on cpu, 198 trees in 3.5 s. The model of tree 168 is kept."),
        (of_fit(device="cuda"), "Fitted: NetworkClassifier on cuda, 3 epochs in 3.5 s. The model of epoch 2 is kept."),
        (of_fit(model="Constant", step="", epochs=0, best_epoch=None), "Fitted: Constant on cpu, in 3.5 s."),
        (of_fit(reused=1, model="N"), "Fitted by an earlier run: N on cpu, 3 epochs. The model of epoch 2 is kept."),
        (of_fit(reused=1, epochs=0, best_epoch=None), "Fitted by an earlier run: NetworkClassifier on cpu."),
    ],
)  # fmt: skip
def test_a_report_says_the_same_of_a_fit_of_any_kind(made: Any, sentence: str) -> None:
    assert sentence in markdown(made).splitlines()


def test_an_entry_from_before_there_were_kinds_has_a_sentence_on_its_fit_too() -> None:
    made = of_fit()
    for name in ("model", "step", "device"):
        del made["training"][name]
    assert "Fitted: network on cpu, 3 epochs in 3.5 s. The model of epoch 2 is kept." in markdown(made)
    idle = nothing_new_document(tills(), night(use_case="tills"), "k", snapshot(), "Nothing changed.", champion(3))
    assert "Fitted" not in markdown(of_fit(seconds=None)) + markdown(idle)


def test_a_document_is_strict_json_with_every_part_of_the_night() -> None:
    made = document()
    assert json.loads(json.dumps(made, allow_nan=False)) == made
    assert made["scores"]["candidate"]["f1"] == {"value": 0.7381, "low": 0.72, "high": 0.755, "reason": None}
    assert made["scores"]["rule"]["f1"] == {"value": None, "low": None, "high": None, "reason": "no row"}
    assert made["snapshot"]["digest"] == "s" * 64
    assert (made["champion_before"], made["champion_after"], made["version"]) == (3, 4, 4)
    assert made["seconds"]["validate partitions"] == 1.25
    assert (made["reused"]["validate partitions"], made["computed"]["validate partitions"]) == (3, 1)
    assert {"run_key", "test_digest", "split", "decision", "reason", "verdicts", "seed", "device"} <= made.keys()


def resolved(metric: str, unit: str = "day", **figures: float) -> Any:
    kept = {"smallest_detectable_drop": 0.0282, "independent_units": 17.3, "max_drop": 0.01, **figures}
    gates = [("BetterThanTrivial f1", {"difference": 0.1}), (f"NotWorseThanChampion {metric}", kept)]
    verdicts = [{"gate": gate, "verdict": "PASS", "reason": "so", "figures": of} for gate, of in gates]
    return {**document(), "verdicts": verdicts, "units": {"name": unit, "count": 28}}


def test_a_report_says_what_its_test_days_can_show() -> None:
    said = (
        "28 days like these equal 17 independent ones: a loss of F1 under 0.0282 cannot be seen; 56 days would see one "
        "of 0.0199. Of candidates that are worse by exactly what a gate allows, 5% pass by design, and of simulated "
        "days 4% to 14%."
    )
    assert said in markdown(resolved("f1")).splitlines()
    assert "a loss of log loss under 2.8% cannot be seen; 56 days would see one of 2.0%." in markdown(
        resolved("log_loss")
    )


def test_rows_and_groups_have_no_days_to_equal() -> None:
    said = resolution_sentence(resolved("f1", "school"))
    assert said.startswith("There are 28 schools: a loss of F1 under 0.0282 cannot be seen; 56 schools would see one")
    assert said.endswith("5% pass by design.")


def test_a_night_without_a_champion_or_of_before_says_nothing_of_its_resolution() -> None:
    before = resolved("f1")
    del before["verdicts"][1]["figures"]["independent_units"]
    assert resolution_sentence(before) == resolution_sentence(document()) == ""


def test_the_other_documents_share_its_head() -> None:
    idle = nothing_new_document(tills(), night(use_case="tills"), "k", snapshot(), "Nothing changed.", champion(3))
    head = {"use_case", "as_of", "run_key", "seed", "snapshot", "champion_before", "champion_after", "replayed"}
    assert head <= idle.keys() & document().keys()
    assert (idle["decision"], idle["version"], idle["champion_after"]) == ("NOTHING_NEW", None, 3)
    dry = dry_run_document(night(use_case="tills"), "k", trail().checks, trail().split, None)
    assert dry["dry_run"] is True
    assert dry["split"]["train"]["rows"] == 9000
    assert {"decision", "version"}.isdisjoint(dry)
    for made in (idle, dry):
        json.dumps(made, allow_nan=False)


CELLS = [
    (None, "-"),
    ({"value": None, "low": None, "high": None}, "undefined"),
    ({"value": 0.7384, "low": None, "high": None}, "0.738"),
    ({"value": 0.7384, "low": 0.7, "high": 0.8}, "0.738 [0.700, 0.800]"),
    ({"value": 12345.6, "low": 999.9, "high": 20000}, "12,346 [999.900, 20,000]"),
    ({"value": 0.0, "low": None, "high": None}, "0.000"),
]


@pytest.mark.parametrize(("score", "text"), CELLS)
def test_a_score_is_shown_with_its_interval_and_never_as_a_number_where_it_is_undefined(score: Any, text: str) -> None:
    assert cell(score) == text


HEADLINES: list[tuple[DecisionName, int | None, int | None, str, str]] = [
    ("FIRST", None, 4, "is the first champion", "Champion is now version 4."),
    ("PROMOTE", 3, 4, "is the new champion", "Champion is now version 4, before it was version 3."),
    ("KEEP", 3, 3, "was not promoted", "Champion is still version 3."),
    ("REJECT", None, None, "was not promoted; there is no champion yet", "There is no champion."),
]


@pytest.mark.parametrize(("decision", "before", "after", "words", "sentence"), HEADLINES)
def test_each_decision_has_its_sentence(
    decision: DecisionName, before: int | None, after: int | None, words: str, sentence: str
) -> None:
    made = document(decision, before, after)
    assert headline(made).startswith("tills version 4 (as of 2024-03-01)")
    assert words in headline(made)
    assert champion_sentence(made) == sentence
    assert champion_then(made) in markdown(made)
    assert sentence not in markdown(made), "a page is read when the champion may be another one"


def test_what_came_in_and_what_was_left_out_is_said_with_numbers() -> None:
    text = " ".join(data_sentences(document()))
    for words in (
        "12,345 rows", "59 partitions", "17 rows quarantined", "2 exact duplicates", "5 without a label",
        "9,000 rows", "1,000", "2,000", "28 days", "2024-01-07, it is missing", "ape (1 day), zebra (1 day)",
        "2024-01-03",
    ):  # fmt: skip
        assert words in text


def test_the_share_of_test_rows_of_known_groups_is_said_and_older_documents_have_none() -> None:
    night_trail = trail()
    split = replace(night_trail.split, test=replace(night_trail.split.test, group_in_train=0.875))
    grouped = replace(night_trail, split=split)
    made = result_document(tills(group="shop"), night(), "k", grouped, champion(4), None, champion(4))
    assert made["split"]["test"]["group_in_train"] == 0.875
    sentence = "87.5% of the test rows are of a shop that has train rows too."
    assert sentence in data_sentences(made) and sentence in markdown(made)
    del made["split"]["test"]["group_in_train"], made["group"]
    assert "train rows too" not in markdown(made)
    assert document()["split"]["test"]["group_in_train"] is None


def test_what_scarce_memory_changed_is_said() -> None:
    note = "Memory of cuda ran out in epoch 2: from there on the CPU trains."
    night_trail = trail()
    fit = replace(night_trail.fit, device="cpu", notes=(note,))
    made = result_document(tills(), night(), "k", replace(night_trail, fit=fit), champion(4), None, champion(4))
    assert (made["training"]["device"], made["training"]["notes"]) == ("cpu", [note])
    assert f"- {note}" in markdown(made)
    assert document()["training"]["notes"] == []


def test_a_document_of_an_older_ledger_has_no_notes() -> None:
    made = document()
    del made["training"]["notes"], made["training"]["device"]
    assert "9,000 rows" in markdown(made)


def test_what_a_source_leaves_out_is_said_in_every_document() -> None:
    """In that of a night with nothing new too, and an older ledger's has none."""
    idle = nothing_new_document(tills(), night(), "k", snapshot(), "Nothing changed.", None)
    sentence = "2 rows of sales.csv have no at and belong to no day."
    for made in (document(), idle):
        assert made["snapshot"]["left_out"][0]["count"] == 2
        assert sentence in data_sentences(made)
        assert f"- {sentence}" in markdown(made)
        del made["snapshot"]["left_out"]
        assert sentence not in data_sentences(made)


def test_the_report_holds_scores_gates_and_keys() -> None:
    text = markdown(document(against=verdict("PASS", difference=0.01, low=0.001, high=0.02)))
    for words in ("0.738 [0.720, 0.755]", "undefined", "BetterThanRule f1", "so it is", "k" * 64, "s" * 64, "28 days"):
        assert words in text
    assert "nan" not in text.lower().split()
    assert "None" not in text


@pytest.mark.parametrize("name", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_the_model_is_compared_with_a_rule_of_thumb_whichever_way_it_ends(name: str) -> None:
    made = document(against=verdict(name, difference=-0.01, low=-0.02, high=0.001))
    sentence = comparison_sentence(made)
    assert "what rule is" in sentence
    assert ("is better than" in sentence) is (name == "PASS")
    assert comparison_sentence(document()) == ""


@pytest.mark.parametrize("name", ["PASS", "FAIL", "INCONCLUSIVE"])
def test_the_model_is_compared_with_default_trees_whichever_way_it_ends(name: str) -> None:
    figures = {"difference": -0.01, "low": -0.02, "high": 0.001}
    against = {"gate": "BetterThanTrees f1", "verdict": name, "reason": "so it is", "figures": figures}
    sentence = comparison_sentence(document() | {"against_trees": against})
    stands = {"PASS": "is better than", "FAIL": "is no better than", "INCONCLUSIVE": "is not surely better than"}[name]
    words = f"In F1 the model {stands} boosted trees with default settings (-0.0100 [-0.0200, +0.0010])."
    assert sentence == words


@pytest.mark.parametrize("metric", ["pr_auc", "log_loss"])
def test_the_own_metric_is_no_second_reason_for_a_model_that_a_rule_equals(metric: str) -> None:
    """In which it is not surely better, although its value may be."""
    made = document(against=verdict("INCONCLUSIVE", difference=0.01, low=-0.01, high=0.02)) | {"metric": metric}
    for who, better in (("candidate", True), ("rule", False)):
        made["scores"][who] |= {"pr_auc": {"value": 0.6 + 0.1 * better}, "log_loss": {"value": 0.4 - 0.1 * better}}
    sentence = comparison_sentence(made)
    assert ("PR AUC 0.700 against 0.600" in sentence) == (metric == "log_loss")
    assert ("log loss 0.300 against 0.400" in sentence) == (metric == "pr_auc")


def test_the_brier_score_is_shown_where_a_gate_names_it() -> None:
    """It has an interval there."""
    made = document()
    for low, shown in ((None, False), (0.1, True)):
        made["scores"]["candidate"]["brier"] = {"value": 0.2, "low": low, "high": low and 0.3, "reason": None}
        assert ("Brier 0.200" in score_list(made)) == shown


def test_everyone_who_was_scored_has_a_row() -> None:
    assert [(who, words) for who, words, _ in score_rows(document())] == [
        ("candidate", "what candidate is"),
        ("best one-column rule", "what rule is"),
    ]


def test_only_defined_scores_become_metrics() -> None:
    assert model_metrics(document()) == {"test_f1": 0.7381, "test_pr_auc": 0.6}
    idle = nothing_new_document(tills(), night(), "k", snapshot(), "Nothing changed.", None)
    assert model_metrics(idle) == {}


def test_a_window_is_said_in_words() -> None:
    assert window_words(59, "2024-01-01", "2024-02-28") == "59 partitions, 2024-01-01 to 2024-02-28"
    assert window_words(1, "all", "all") == "1 partition"


def test_a_trail_lists_its_work_in_the_order_of_its_stages() -> None:
    assert [work.stage for work in trail().work][:2] == ["take snapshot", "validate partitions"]
    assert len(trail().work) == 10
    assert to_json(trail().checks)


DAYS = [str(date(2023, 1, 1) + timedelta(days=number)) for number in range(365)]


def many() -> dict[str, Any]:
    """As a window of a year has it where on every day 1,000 columns are undeclared and all that can move moves."""
    words = "it cannot be read, since " + "so many words say why " * 30
    rules = (RuleCount(rule=f"x{n} is {words}", scope="row", severity="error", evaluated=9, unexpected=4) for n in DAYS)
    names = {f"column {number} {'x' * 60}": 365 for number in range(20)}
    moves = (Move(day=day, kind="null", name=f"x{n}", share=0.5, usual=0.1) for day in DAYS for n in range(20))
    return {
        "left_out": dict.fromkeys(DAYS, words),
        "undeclared": Undeclared(days=365, most=1_000, names=names),
        "quarantined_days": dict.fromkeys(DAYS, 3),
        "broken": tuple(rules),
        "moves": tuple(moves),
    }


def test_names_are_said_once_whatever_the_window() -> None:
    found = document(**many())
    text = markdown(found)
    assert len(to_json(found)) < 64 * 1024
    assert len(text) < 12_000
    assert text.count("column 7 xxx") == 1
    for words in ("(365 days)", "and 980 more", "360 more days", "345 more rules broken"):
        assert words in text


def test_changed_days_are_counted_and_the_newest_are_named() -> None:
    found = document()
    found["snapshot"] |= {"changed_days": DAYS[-20:], "changed": 365}
    assert "Changed since the last night: 2023-12-27, 2023-12-28, " in markdown(found)
    assert "2023-12-31 and 360 earlier days." in markdown(found)


def test_what_a_long_note_loses_comes_after_the_scores_and_gates() -> None:
    text = markdown(document(**many()))
    assert text.index("## Scores") < text.index("## Gates") < text.index("## Data")
    assert text.index("## Data") < 2_000


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("null", "amount is missing in 40% of the rows of 2024-02-28 (on days before, at most 4%)."),
        ("unseen", "40% of the rows of 2024-02-28 have a value in amount that no earlier day had (on days before, at"),
        ("unmatched", "Side table amount does not match 40% of the rows of 2024-02-28 (on days before, at most 4%)."),
    ],
)
def test_what_moved_is_a_sentence_a_column(kind: str, words: str) -> None:
    newest = Move(day="2024-02-28", kind=kind, name="amount", share=0.4, usual=0.04)
    assert words in " ".join(data_sentences(document(moves=(newest,))))
    older = replace(newest, day="2024-02-27", share=0.3)
    said = [sentence for sentence in data_sentences(document(moves=(older, newest))) if "2024-02-28 " in sentence]
    assert "; it moved on 1 other day too)" in " ".join(said)


def test_an_older_entry_of_the_ledger_is_still_told() -> None:
    """It has undeclared columns by day, and neither moves nor counts."""
    old = document()
    for name in ("undeclared_columns", "moves", "left_out_days", "more_broken_rules"):
        del old["data"][name]
    del old["snapshot"]["changed"]
    old["data"]["unknown_columns"] = {"2024-01-08": ["ape", "zebra"], "2024-01-09": ["ape"]}
    assert "Columns that nobody declared: ape (2 days), zebra (1 day)." in data_sentences(old)


def with_refit(refused: str | None = None, decision: DecisionName = "PROMOTE", asks: bool = False) -> Any:
    """The document of a night whose candidate, version 4, was refitted as 5."""
    refit = None if refused else Refit(version=5, run_id="r5", fit_until="2024-02-28", folder="g", files=(), key="k")
    four, three = replace(champion(4), fit_until="2024-02-01", refit=refit), champion(3)
    refitted = Refitted(
        work=Work(stage="refit candidate", seconds=2.5, computed=1), rows=4_440, fit=None, refused=refused
    )
    made = replace(trail(decision), refitted=refitted)
    made = replace(made, judgement=replace(made.judgement, asks=asks))
    after = three if asks else four
    return result_document(tills(), night(use_case="tills"), "k" * 64, made, four, three, after)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (
            with_refit(),
            "This night made version 4 champion in place of version 3. Version 5 serves, the refit of version 4. It "
            "learnt from rows up to 2024-02-28.",
        ),
        (
            with_refit("it raises KeyError"),
            "in place of version 3. The refit is refused, and the judged model serves: it raises KeyError. Version 4 "
            "serves, as it was judged. It learnt from rows up to 2024-02-01.",
        ),
        (
            with_refit(decision="KEEP", asks=True),
            "This night left version 3 champion. If the answer is yes, version 5 serves, the refit of version 4. "
            "Version 3 serves, as it was judged.",
        ),
        (
            with_refit("it is broken", decision="KEEP", asks=True),
            "The refit is refused, and the judged model would serve: it is broken. Version 3 serves, as it was judged.",
        ),
    ],
)
def test_the_page_says_what_serves_and_up_to_which_day_it_learnt(made: Any, said: str) -> None:
    assert said in markdown(made)
    assert "Fitted once more, on all 4,440 due rows in 2.5 s." in markdown(made)
    assert "| refit candidate | 2.5 | 0 | 1 |" in markdown(made)


def test_the_page_of_a_night_from_before_refits_says_nothing_of_them() -> None:
    old = {name: value for name, value in document().items() if name not in {"refit", "serves"}}
    assert "This night made version 4 champion in place of version 3.\n" in markdown(old)
    assert "refit" not in markdown(old)
