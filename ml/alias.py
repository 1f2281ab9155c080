"""MLflow's aliases follow the ledger: rolled forward after a crash, and reported where somebody else moved them."""

from ml.ledger import AnyEntry, Ledger, OperatorEntry, version_of
from ml.registry import CHAMPION, REFERENCE, Registry


def is_followed(ledger: Ledger) -> bool:
    """Whether the alias was seen to follow the newest entry that names the champion anew, or none ever did."""
    move = ledger.last_move()
    return move is None or ledger.alias_confirmed(move)


def roll_alias_forward(ledger: Ledger, registry: Registry) -> str | None:
    """Makes the alias follow the ledger after a crash between the two.

    Returns a sentence, and changes nothing, where somebody else moved the alias.
    """
    move = ledger.last_move()
    expected, before = (version_of(move.champion), version_of(move.champion_before)) if move else (None, None)
    seen = registry.alias(CHAMPION)
    if seen == expected:
        if move:
            ledger.confirm_alias(move)
        return None
    if move and (seen == before or isinstance(move, OperatorEntry)) and not ledger.alias_confirmed(move):
        follow_ledger(ledger, registry, move)
        return None
    return (
        f"The alias champion was moved by hand: the ledger says {_words(expected)}, MLflow says {_words(seen)}. "
        "Nothing is promoted until an operator says which holds: "
        f"retrain promote {ledger.use_case} --version N --reason WHY."
    )


def _words(version: int | None) -> str:
    return "that there is none" if version is None else f"version {version}"


def follow_ledger(ledger: Ledger, registry: Registry, move: AnyEntry) -> None:
    """Sets both aliases to what the entry says, champion last, then notes that they were seen there.

    Looks again afterwards: a newer move may have been made meanwhile, and this write must not be the last.
    """
    if move.reference:
        registry.set_alias(REFERENCE, move.reference.version)
    if move.champion:
        registry.set_alias(CHAMPION, move.champion.version)
    newest = ledger.last_move()
    if newest is not None and newest.seq > move.seq:
        follow_ledger(ledger, registry, newest)
        return
    ledger.confirm_alias(move)
