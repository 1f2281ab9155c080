"""MLflow's aliases follow the ledger. After a crash they are set again; an alias that somebody else moved is reported.

An alias is never taken for the truth: the ledger alone says which version is champion.
"""

from ml.errors import ConfigError
from ml.operations.usable import way_back
from ml.operations.versions import lost_versions, lost_words, recorded_as, register_again
from ml.storage.ledger import AnyEntry, Ledger, OperatorEntry
from ml.storage.records import Registered
from ml.storage.registry import CHAMPION, REFERENCE, Registry

NONE = "none"


def is_followed(ledger: Ledger) -> bool:
    """Whether the alias was seen to follow the newest entry that chose the champion. True if no entry ever did."""
    move = ledger.last_move()
    return move is None or ledger.alias_confirmed(move)


def roll_alias_forward(ledger: Ledger, registry: Registry) -> str | None:
    """Makes the alias follow the ledger if a run was killed after it wrote the ledger and before it set the alias.

    Returns None if the alias follows. If somebody else moved the alias, or MLflow has lost the champion, it changes
    nothing and returns a sentence that says so.
    """
    move = ledger.last_move()
    champion, before = (move.champion, move.champion_before) if move else (None, None)
    alias, expected = registry.alias(CHAMPION), registry.number_of(champion.served) if champion else None
    if champion and expected is None:
        lost = lost_words(registry, champion.served)
        return f"{lost[0].upper()}{lost[1:]}. Nothing is promoted meanwhile: {way_back(ledger, registry, champion)}."
    if alias == expected:
        if move:
            ledger.confirm_alias(move)
        return None
    untouched = isinstance(move, OperatorEntry) or alias == (registry.number_of(before.served) if before else None)
    if move and untouched and not ledger.alias_confirmed(move):
        follow_ledger(ledger, registry, move)
        return None
    return (
        f"The alias champion was moved by hand: the ledger says {_words(ledger_words(champion and champion.served))}, "
        f"MLflow says {_words(alias_words(ledger, registry))}. "
        "Nothing is promoted until an operator says which holds: "
        f"retrain promote {ledger.use_case} --version N --reason WHY."
    )


def _words(version: str) -> str:
    return "that there is none" if version == NONE else f"version {version}"


def ledger_words(model: Registered | None) -> str:
    """The version's number in the ledger; `none` if there is no version."""
    return NONE if model is None else str(model.version)


def alias_words(ledger: Ledger, registry: Registry) -> str:
    """Which version the alias champion names, by the ledger's number, or by MLflow's if no night recorded it."""
    number = registry.alias(CHAMPION)
    model = recorded_as(ledger, registry, number)
    if number is None or model is not None:
        return ledger_words(model)
    return f"{number}, which no night recorded"


def follow_ledger(ledger: Ledger, registry: Registry, move: AnyEntry) -> None:
    """Sets the aliases reference and champion as the entry says, then notes that they follow it.

    The alias champion names the version that serves, the alias reference the judged one that gates compare with.
    Afterwards it looks for a newer move, and follows that: otherwise this call could overwrite what that move set. A
    reference that MLflow has lost is skipped. Raises ConfigError if MLflow has lost the champion.
    """
    if move.reference and registry.number_of(move.reference) is not None:
        point(ledger, registry, REFERENCE, move.reference)
    if move.champion:
        point(ledger, registry, CHAMPION, move.champion.served)
    newest = ledger.last_move()
    if newest is not None and newest.seq > move.seq:
        follow_ledger(ledger, registry, newest)
        return
    ledger.confirm_alias(move)


def point(ledger: Ledger, registry: Registry, alias: str, model: Registered) -> None:
    """Lets the alias name the ledger's version under its number in MLflow. Raises ConfigError if MLflow lost it."""
    number = registry.number_of(model)
    if number is None:
        raise ConfigError(
            f"the alias {alias} of {registry.name} names a version of the ledger",
            lost_words(registry, model),
            way_back(ledger, registry, model),
        )
    registry.set_alias(alias, number)


def register_lost(ledger: Ledger, registry: Registry) -> None:
    """Registers every version that MLflow lost again, from the store, and lets the aliases follow the ledger.

    If the alias champion names a version that no night recorded, somebody has set it, and it stays: a person must say
    which version is to serve.
    """
    lost, alias = lost_versions(ledger, registry), registry.alias(CHAMPION)
    may_move = alias is None or recorded_as(ledger, registry, alias) is not None
    for each in lost:
        register_again(registry, each)
    move, identities = ledger.last_move(), {each.version.identity for each in lost}
    if move and move.champion and move.champion.served.identity in identities and may_move:
        follow_ledger(ledger, registry, move)
    elif move and move.reference and move.reference.identity in identities:
        point(ledger, registry, REFERENCE, move.reference)
