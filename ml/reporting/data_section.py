"""What a report says about the data of its night.

The sentences are written from the document that the ledger keeps. Entries of older versions lack some of its fields;
they get the sentences that they have fields for.
"""

from collections import Counter
from collections.abc import Sequence

from ml.data.handles import LeftOut
from ml.data.rejections import of_two_types
from ml.reporting.document import Document
from ml.reporting.words import MOST_DAYS, MOST_KEPT, counted, newest_of, window_words


def data_sentences(document: Document) -> list[str]:
    """Sentences on what came in, what was left out, and what was trained on."""
    snapshot, data, split = document["snapshot"], document.get("data"), document.get("split")
    window = window_words(snapshot["partitions"], snapshot["first_day"], snapshot["last_day"])
    not_read = [LeftOut(**fields).sentence for fields in snapshot.get("left_out", [])]
    if data is None or split is None:
        return [f"{window}.", *not_read]
    sentences = [
        f"{counted(data['rows'], 'row')} in {window}.",
        f"{counted(document['quarantined_rows'], 'row')} quarantined, "
        f"{counted(data['duplicate_rows'], 'exact duplicate')} dropped, "
        f"{data['unlabelled_rows']:,} without a label left out.",
        f"Trained on {counted(split['train']['rows'], 'row')}, validated on {split['validation']['rows']:,}, "
        f"tested on {_test_words(document)}.",
    ]
    sentences += [
        f"{counted(count, 'row')} met nothing in side table {name}: without a key, or with one that it lacks."
        for name, count in data.get("unmatched_rows", {}).items()
    ]
    group_in_train = split["test"].get("group_in_train")
    if group_in_train is not None:
        sentences.append(f"{group_in_train:.1%} of the test rows are of a {document['group']} that has train rows too.")
    sentences += [
        f"Quarantined on {day}: {counted(count, 'row')}."
        for day, count in list(data["quarantined_days"].items())[-MOST_DAYS:]
        if day != "all"
    ]
    sentences += [f"Broken {counted(rule['unexpected'], 'time')}: {rule['rule']}." for rule in data["broken_rules"]]
    if more := data.get("more_broken_rules"):
        sentences.append(f"{counted(more, 'more rule')} broken, by fewer rows.")
    sentences += move_sentences(data.get("moves", []))
    sentences += document["training"].get("notes", [])
    sentences += _left_out_sentences(data)
    sentences += _undeclared_sentences(data)
    sentences += not_read
    if snapshot["changed_days"]:
        total = snapshot.get("changed", len(snapshot["changed_days"]))
        sentences.append(f"Changed since the last night: {newest_of(snapshot['changed_days'], 'day', total)}.")
    return sentences


def _left_out_sentences(data: Document) -> list[str]:
    newest = list(data["left_out"].items())[-MOST_DAYS:]
    more = data.get("left_out_days", len(data["left_out"])) - len(newest)
    sentences = [f"Left out: {day}, {why}." for day, why in newest]
    return sentences + ([f"Left out: {counted(more, 'more day')}."] if more > 0 else [])


def _undeclared_sentences(data: Document) -> list[str]:
    """Which columns nobody declared, each with the number of its days; and which names differ only in their type."""
    undeclared = data.get("undeclared_columns") or _undeclared_of_older_entry(data.get("unknown_columns", {}))
    if not undeclared["days"]:
        return []
    names = {name: f"{name} ({counted(days, 'day')})" for name, days in undeclared["names"].items()}
    more = undeclared["most"] - len(names)
    return [
        f"Columns that nobody declared: {', '.join(names.values())}{f' and {more:,} more' if more > 0 else ''}.",
        *(
            f"derive was given {' and '.join(names[name] for name in of_column)}: declare the column, which gives it "
            "one type."
            for of_column in of_two_types(names)
        ),
    ]


def _undeclared_of_older_entry(by_day: dict[str, list[str]]) -> Document:
    """The undeclared columns in today's form. Older entries of the ledger have day to names."""
    names = Counter(name for names in by_day.values() for name in names)
    most = max((len(names) for names in by_day.values()), default=0)
    return {"days": len(by_day), "most": most, "names": dict(names.most_common(MOST_KEPT))}


def move_sentences(moves: Sequence[Document]) -> list[str]:
    """One sentence for every column that moved on the newest days, on its newest day and the number of its others."""
    by_column: dict[tuple[str, str], list[Document]] = {}
    for move in sorted(moves, key=lambda move: move["day"], reverse=True):
        by_column.setdefault((move["kind"], move["name"]), []).append(move)
    sentences = [_move_sentence(of_column) for of_column in by_column.values()]
    more = len(sentences) - MOST_DAYS
    return sentences[:MOST_DAYS] + ([f"{counted(more, 'more column')} moved."] if more > 0 else [])


def _move_sentence(moves: Sequence[Document]) -> str:
    """The moves of one column, the newest first, as a sentence."""
    newest, others = moves[0], len(moves) - 1
    share, usual = f"{newest['share']:.0%} of the rows of {newest['day']}", f"{newest['usual']:.0%}"
    words = {
        "null": f"{newest['name']} is missing in {share}",
        "unseen": f"{share} have a value in {newest['name']} that no earlier day had",
        "unmatched": f"Side table {newest['name']} does not match {share}",
    }[newest["kind"]]
    also = f"; it moved on {counted(others, 'other day')} too" if others else ""
    return f"{words} (on days before, at most {usual}{also})."


def _test_words(document: Document) -> str:
    """`1,000 (2013-09-01 to 2013-09-30), 20.1% of them positive; 30 days`."""
    test, units, share = document["split"]["test"], document["units"], document["split"]["test"]["positive_share"]
    days = f" ({test['first_day']} to {test['last_day']})" if test["first_day"] else ""
    positive = f", {share:.1%} of them positive" if share is not None else ""
    return f"{test['rows']:,}{days}{positive}; {counted(units['count'], units['name'])}"
