"""MLflow's aliases follow the ledger: rolled forward after a crash, and reported where somebody else moved them."""

from ml.errors import ConfigError
from ml.operations.usable import way_back
from ml.operations.versions import lost_versions, lost_words, recorded_as, register_again
from ml.storage.ledger import AnyEntry, Ledger, OperatorEntry
from ml.storage.records import Champion
from ml.storage.registry import CHAMPION, REFERENCE, Registry

NONE = "none"


def is_followed(ledger: Ledger) -> bool:
    """Whether the alias was seen to follow the newest entry that names the champion anew, or none ever did."""
    move = ledger.last_move()
    return move is None or ledger.alias_confirmed(move)


def roll_alias_forward(ledger: Ledger, registry: Registry) -> str | None:
    """Makes the alias follow the ledger after a crash between the two.

    Returns a sentence, and changes nothing, where somebody else moved the alias, or where MLflow lost the champion.
    """
    move = ledger.last_move()
    champion, before = (move.champion, move.champion_before) if move else (None, None)
    seen, expected = registry.alias(CHAMPION), registry.number_of(champion) if champion else None
    if champion and expected is None:
        lost = lost_words(registry, champion)
        return f"{lost[0].upper()}{lost[1:]}. Nothing is promoted meanwhile: {way_back(ledger, registry, champion)}."
    if seen == expected:
        if move:
            ledger.confirm_alias(move)
        return None
    follows = isinstance(move, OperatorEntry) or seen == (registry.number_of(before) if before else None)
    if move and follows and not ledger.alias_confirmed(move):
        follow_ledger(ledger, registry, move)
        return None
    return (
        f"The alias champion was moved by hand: the ledger says {_words(ledger_words(champion))}, "
        f"MLflow says {_words(alias_words(ledger, registry))}. "
        "Nothing is promoted until an operator says which holds: "
        f"retrain promote {ledger.use_case} --version N --reason WHY."
    )


def _words(version: str) -> str:
    return "that there is none" if version == NONE else f"version {version}"


def ledger_words(model: Champion | None) -> str:
    return NONE if model is None else str(model.version)


def alias_words(ledger: Ledger, registry: Registry) -> str:
    """Whom the alias champion names: by the ledger's number where a night recorded it, else by MLflow's."""
    number = registry.alias(CHAMPION)
    model = recorded_as(ledger, registry, number)
    if number is None or model is not None:
        return ledger_words(model)
    return f"{number}, which no night recorded"


def follow_ledger(ledger: Ledger, registry: Registry, move: AnyEntry) -> None:
    """Sets both aliases to what the entry says, champion last, then notes that they were seen there.

    Looks again afterwards: a newer move may have been made meanwhile, and this write must not be the last.
    """
    if move.reference and registry.number_of(move.reference) is not None:  # a lost one must not hold the champion back
        point(ledger, registry, REFERENCE, move.reference)
    if move.champion:
        point(ledger, registry, CHAMPION, move.champion)
    newest = ledger.last_move()
    if newest is not None and newest.seq > move.seq:
        follow_ledger(ledger, registry, newest)
        return
    ledger.confirm_alias(move)


def point(ledger: Ledger, registry: Registry, alias: str, model: Champion) -> None:
    """Lets the alias name the ledger's version, whatever number it has in MLflow. Raises ConfigError if it has none."""
    number = registry.number_of(model)
    if number is None:
        raise ConfigError(
            f"the alias {alias} of {registry.name} names a version of the ledger",
            lost_words(registry, model),
            way_back(ledger, registry, model),
        )
    registry.set_alias(alias, number)


def register_lost(ledger: Ledger, registry: Registry) -> None:
    """Registers again, from the store, every version that MLflow lost, and lets the aliases follow the ledger.

    An alias that somebody has set on a version that is none of the ledger's stays: a person must say which holds.
    """
    lost, seen = lost_versions(ledger, registry), registry.alias(CHAMPION)
    followed = seen is None or recorded_as(ledger, registry, seen) is not None
    for night in lost:
        register_again(registry, night)
    move, identities = ledger.last_move(), {night.candidate.identity for night in lost if night.candidate}
    if move and move.champion and move.champion.identity in identities and followed:
        follow_ledger(ledger, registry, move)
    elif move and move.reference and move.reference.identity in identities:
        point(ledger, registry, REFERENCE, move.reference)
