"""What a use case may not say: one case or more for each demand, answered by a sentence when the object is made."""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from datetime import date, datetime
from itertools import product
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression

from ml import BusinessDays, Column, DaySource, FileSource, SideTable, Source, UseCase
from ml.data.demands import CALENDAR, COLUMN, DATASET, SIDE_TABLE, SOURCE, TARGET
from ml.errors import ConfigError
from ml.evaluation.demands import GATE, RANGES
from ml.evaluation.gates import (
    BetterThanRule,
    BetterThanTrivial,
    Comparison,
    Gate,
    MinMetric,
    NotSurelyWorse,
    NotWorseThanChampion,
    NotWorseThanReference,
    NotWorseThanTrees,
)
from ml.evaluation.source_unchanged import SourceUnchanged
from ml.metrics.scores import METRICS, PROBABILITY_SCORES
from ml.models.demands import RECIPE
from ml.models.networks.estimators import NetworkClassifier, NetworkEstimator, NetworkRegressor
from ml.models.protocol import Learner
from ml.models.trees import Trees
from ml.use_case.definition import USE_CASE
from ml.use_case.operation import OPERATION, _is_cron
from tests.tiny import TARGETS, parcels, tills

Make = Callable[..., UseCase]
several = functools.partial(parcels, "multiclass")
values = functools.partial(parcels, "regression")


def column(make: Make, name: str, **changes: Any) -> dict[str, Any]:
    """The columns of a use case, with fields of one of them changed, or with one more."""
    columns = make().columns
    if name not in {c.name for c in columns}:
        return {"columns": (*columns, Column(name=name, **changes))}
    return {"columns": tuple(dataclasses.replace(c, **changes) if c.name == name else c for c in columns)}


def without(make: Make, *names: str) -> dict[str, Any]:
    return {"columns": tuple(c for c in make().columns if c.name not in names)}


def keyed(make: Make, name: str) -> dict[str, Any]:
    """With one more column, which is in the key."""
    return {**column(make, name, type="text", feature=False), "key": (*make().key, name)}


OF_ANSWERS = ("prediction", "probability", "broken_rule", "contribution_amount", "contribution_base")


def target(make: Make, **changes: Any) -> dict[str, Any]:
    return {"target": dataclasses.replace(make().target, **changes)}


async def later(rows: pd.DataFrame) -> pd.DataFrame:
    return rows


def in_pieces(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    yield rows


def gates(*gates: Gate) -> dict[str, Any]:
    return {"gates": gates}


def floor(value: Any, metric: str = "f1") -> dict[str, Any]:
    return gates(MinMetric(metric=metric, floor=value, why="a test"))


def drop(value: Any) -> dict[str, Any]:
    return gates(NotWorseThanChampion(metric="f1", max_drop=value, why="a test"))


def option(**options: Any) -> dict[str, Any]:
    return {"model": Trees(options=options)}


def side(**changes: Any) -> dict[str, Any]:
    fields = {"name": "stock", "source": Source(folder="stock"), "on": ("shop",), "take": ("items",)}
    return {"side_tables": (SideTable(**{**fields, **changes}),)}


def trivial(**changes: Any) -> BetterThanTrivial:
    return BetterThanTrivial(**{"metric": "f1", "why": "a test", **changes})


class Undecided(Comparison):
    """A company's own gate that does not say how it decides."""


@dataclasses.dataclass(frozen=True)
class NoRows(DaySource):
    """A company's own source that says nothing."""


class Former(Gate):
    """A company's own gate that was written before the methods became public."""

    def _weigh(self, pair: object, evidence: object) -> None:
        """Says nothing."""


class AgainstNobody(BetterThanTrivial):
    opponent = "nobody"


# A case: the use case, what is changed in it, the field that the sentence begins with, and words that it holds.
Case = tuple[Make, dict[str, Any], str, str]

TYPES: list[Case] = [
    (tills, {"min_rows": "300"}, "min_rows of the use case tills", "'300': write it without quotes"),
    (tills, {"min_rows": 300.0}, "min_rows of", "valid integer, but it is 300.0"),
    (tills, {"min_rows": True}, "min_rows of", "True"),
    (tills, {"min_rows": 0}, "min_rows of", "greater than 0, but it is 0"),
    (tills, {"test_days": "28"}, "test_days of", "'28'"),
    (tills, {"test_days": 0}, "test_days of", "it is 0"),
    (tills, {"validation_days": -1}, "validation_days of", "it is -1"),
    (tills, {"window_days": 0}, "window_days of", "it is 0"),
    (tills, {"window_days": 10**9}, "window_days of", "36500"),
    (tills, {"label_delay_days": -1}, "label_delay_days of", "it is -1"),
    (tills, {"max_missing_days": -1}, "max_missing_days of", "it is -1"),
    (tills, {"max_unseen_fraction": 1.5}, "max_unseen_fraction of", "it is 1.5"),
    (tills, {"calendar": "weekday"}, "calendar of", "it is 'weekday': write one of them, BusinessDays("),
    (tills, {"calendar": ("mon",)}, "calendar of", "or a tuple of dates"),
    (tills, {"calendar": [date(2024, 1, 1)]}, "calendar of", "or a tuple of dates"),
    (tills, {"calendar": BusinessDays(weekdays=cast(Any, ("Mon",)))}, "weekdays[0] of the calendar", "it is 'Mon'"),
    (tills, {"calendar": BusinessDays(holidays=cast(Any, ("2024-01-01",)))}, "holidays[0] of", "like date(2013"),
    (tills, {"rare_below": -1}, "rare_below of", "it is -1"),
    (tills, {"seed": -1}, "seed of", "it is -1"),
    (tills, {"seed": 2**63}, "seed of", "it is 9223372036854775808"),
    (tills, {"outlier_std": 0}, "outlier_std of", "it is 0"),
    (tills, {"outlier_std": float("nan")}, "outlier_std of", "finite number, but it is nan"),
    (tills, {"max_quarantined_fraction": 5}, "max_quarantined_fraction of", "it is 5"),
    (tills, {"max_quarantined_fraction": -0.1}, "max_quarantined_fraction of", "it is -0.1"),
    (tills, {"key": "sale"}, "key of", "'sale': write it with brackets and a comma"),
    (tills, {"key": ["sale"]}, "key of", "['sale']: write it with ( )"),
    (tills, {"key": ("sale", 3)}, "key[1] of", "it is 3"),
    (tills, {"columns": tills().columns[0]}, "columns of", "tuple"),
    (tills, {"columns": ("sale",)}, "columns[0] of", "instance of Column, but it is 'sale'"),
    (tills, {"name": 3}, "name of the use case 3", "string"),
    (tills, {"question": " "}, "question of", "at least 1 character"),
    (tills, {"source": "tills"}, "source of", "instance of RowSource"),
    (tills, {"source": Source(folder="")}, "folder of the source of tills", "''"),
    (tills, {"target": "returned_after"}, "target of", "instance of Target"),
    (tills, {"model": NetworkClassifier}, "model of", "instance of Learner"),
    (tills, {"model": LogisticRegression()}, "model of", "or ScikitLearn(...) around an unfitted one"),
    (tills, {"gates": (BetterThanTrivial,)}, "gates[0] of", "instance of Gate"),
    (tills, {"replay_from": "2024-01-01"}, "replay_from of", "write it like date(2013, 10, 1)"),
    (tills, {"replay_from": datetime(2024, 1, 1)}, "replay_from of", "valid date"),
    (tills, {"derive": "add_hour"}, "derive of", "callable"),
    (tills, {"schedule": 3}, "schedule of", "string"),
    (tills, column(tills, "amount", type="float"), "type of column amount of tills", "'number', 'integer', 'text'"),
    (tills, column(tills, "amount", type=float), "type of column amount of tills", "<class 'float'>"),
    (tills, column(tills, "amount", minimum="0"), "minimum of column amount", "'0': write it without quotes"),
    (tills, column(tills, "amount", maximum=float("inf")), "maximum of column amount", "inf"),
    (tills, column(tills, "amount", nullable="yes"), "nullable of column amount", "'yes'"),
    (tills, column(tills, "shop", values="A"), "values of column shop", "'A': write it with brackets and a comma"),
    (tills, column(tills, "shop", values=(1, 2)), "values[0] of column shop", "it is 1"),
    (tills, column(tills, "at", parts=("minute",)), "parts[0] of column at", "'hour', 'weekday' or 'month'"),
    (tills, column(tills, "at", parts="hour"), "parts of column at", "'hour'"),
    (tills, target(tills, kind="classification"), "kind of the target of tills", "'binary', 'multiclass' or"),
    (tills, target(tills, above="15"), "above of the target of tills", "'15': write it without quotes"),
    (tills, target(tills, classes="kept"), "classes of the target of tills", "'kept'"),
    (tills, floor("0.7"), "floor of the gate MinMetric f1 of tills", "'0.7'"),
    (tills, floor(float("nan")), "floor of the gate MinMetric f1 of tills", "nan"),
    (tills, drop(0), "max_drop of the gate NotWorseThanChampion f1 of tills", "greater than 0"),
    (tills, drop(-0.02), "max_drop of", "it is -0.02"),
    (tills, drop(2), "max_drop of", "less than 1, but it is 2"),
    (tills, gates(trivial(why=None)), "why of the gate BetterThanTrivial f1 of tills", "None"),
    (tills, {"model": NetworkClassifier(hidden=64)}, "hidden of the model of tills", "64"),
    (tills, {"model": NetworkClassifier(hidden=(64, 0))}, "hidden[1] of the model of tills", "it is 0"),
    (tills, {"model": NetworkClassifier(epochs=0)}, "epochs of the model of tills", "it is 0"),
    (tills, {"model": NetworkClassifier(batch_size=0)}, "batch_size of the model of tills", "it is 0"),
    (tills, {"model": NetworkClassifier(patience=0)}, "patience of the model of tills", "it is 0"),
    (tills, {"model": NetworkClassifier(learning_rate="1e-3")}, "learning_rate of the model of tills", "'1e-3'"),
    (tills, {"model": NetworkClassifier(noise_std=-1)}, "noise_std of the model of tills", "it is -1"),
    (tills, {"model": NetworkClassifier(weight_decay=-1)}, "weight_decay of the model of tills", "it is -1"),
    (tills, {"model": NetworkClassifier(activation="gelu")}, "activation of the model of tills", "'relu', 'tanh'"),
    (tills, {"model": NetworkClassifier(optimizer="lion")}, "optimizer of the model of tills", "'sgd', 'adam'"),
    (tills, {"model": NetworkClassifier(class_weight={0: 1})}, "class_weight of the model of tills", "'balanced'"),
    (tills, side(take="items"), "take of side table stock of tills", "'items'"),
    (tills, side(source="stock"), "source of side table stock of tills", "instance of RowSource"),
    (tills, side(source=Source(folder=" ")), "folder of the source of side table stock of tills", "' '"),
]


class OneText(Trees):
    """A learner of a company, whose class names its module without the brackets of a tuple."""

    served: ClassVar[Any] = "trees"


TOGETHER: list[Case] = [
    (values, {"calibration": "platt"}, "calibration of the use case parcels", "regression has auto, none"),
    (values, {"threshold": "f1"}, "threshold of the use case parcels", "a regression target has no threshold"),
    (tills, {"name": "my tills"}, "name of the use case my tills", "'my tills': rename it"),
    (tills, {"name": "../tills"}, "name of the use case ../tills", "'../tills'"),
    (tills, {"name": "Tills"}, "name of", "'Tills'"),
    (tills, {"name": ""}, "name of", "''"),
    (tills, {"name": "t" * 65}, "name of", "at most 64 small letters"),
    (tills, {"columns": (*tills().columns, Column(name="shop"))}, "columns of", "'shop' is there twice"),
    (
        tills,
        {"columns": tuple(dataclasses.replace(c, feature=False) for c in tills().columns)},
        "columns of",
        "feature",
    ),
    (tills, {"group": "region"}, "group of", "region is not among its columns"),
    (tills, without(tills, "at"), "time_column of", "at is not among"),
    (tills, {"known_at_column": "known_at"}, "known_at_column of", "known_at is not among"),
    (tills, without(tills, "sale"), "key of", "sale is not among"),
    (tills, {"derive": later}, "derive of", "return rows at once"),
    (tills, {"derive": in_pieces}, "derive of", "define it with def, without yield"),
    (tills, {"key": ("sale", "sale")}, "key of", "'sale' is there twice"),
    (tills, {"key": ("sale", "returned_after")}, "key of", "target's column"),
    *((tills, keyed(tills, name), "key of", f"{name} is one") for name in OF_ANSWERS),
    (several, keyed(several, "probability_quick"), "key of", "probability_quick is one"),
    (several, keyed(several, "contribution_quick_base"), "key of", "contribution_quick_base is one"),
    (parcels, {"group": "outcome"}, "group of", "'outcome'"),
    (tills, {"time_column": "amount"}, "time_column of", "column amount is of type number"),
    (tills, {"known_at_column": "shop"}, "known_at_column of", "column shop is of type text"),
    (parcels, {"label_delay_days": 2}, "label_delay_days of the use case parcels", "it is 2"),
    (parcels, {"replay_from": date(2024, 1, 1)}, "replay_from of", "time_column, but it is datetime.date(2024, 1, 1)"),
    (parcels, {"window_days": 30}, "window_days of", "without a time_column"),
    (parcels, {"test_days": 5}, "test_days of", "without a time_column"),
    (parcels, {"validation_days": 5}, "validation_days of", "without a time_column"),
    (parcels, {"max_missing_days": 0}, "max_missing_days of", "without a time_column"),
    (parcels, {"max_unseen_fraction": 0.3}, "max_unseen_fraction of", "without a time_column"),
    (parcels, {"calendar": "weekdays"}, "calendar of", "without a time_column"),
    (tills, {"calendar": ()}, "calendar of", "there is none"),
    (tills, {"calendar": (date(2024, 1, 1),) * 2}, "calendar of", "'2024-01-01' is there twice"),
    (tills, {"calendar": BusinessDays(weekdays=())}, "weekdays of the calendar of", "it is ()"),
    (tills, {"calendar": BusinessDays(weekdays=("mon", "mon"))}, "weekdays of the calendar of", "'mon' is there twice"),
    (tills, {"calendar": BusinessDays(holidays=(date(2024, 1, 1),) * 2)}, "holidays of the calendar of", "twice"),
    (tills, {"calendar": "weekdays", "window_days": 10}, "window_days of", "5 + 3 of 8 days are taken"),
    (tills, {"window_days": 8}, "window_days of", "5 + 3 of 8 days are taken: widen"),
    (tills, {"time_zone": "Mars/Olympus"}, "time_zone of", "'Mars/Olympus'"),
    (tills, {"time_zone": "America"}, "time_zone of", "'America'"),
    (tills, {"time_zone": ""}, "time_zone of", "''"),
    (tills, {"schedule": "every night"}, "schedule of", "'every night': write one like '30 3 * * *'"),
    (tills, {"schedule": "0 25 * * *"}, "schedule of", "'0 25 * * *'"),
    (tills, {"schedule": "0 0 3 * * *"}, "schedule of", "five fields"),
    (tills, {"schedule": "0 3 30 2 *"}, "schedule of", "comes due"),
    (tills, {"schedule": ""}, "schedule of", "''"),
    (tills, {"metric": "rmse"}, "metric of the use case tills", "'rmse' where binary has f1, precision"),
    (values, {"metric": "f1"}, "metric of the use case parcels", "'f1' where regression has rmse, mae, r2"),
    (tills, {"gates": ()}, "gates of", "nothing is promoted"),
    (tills, gates(trivial(), trivial(why="again")), "gates of", "'BetterThanTrivial f1' is there twice"),
    (tills, {"model": NetworkRegressor()}, "model of", "it is a NetworkRegressor for binary"),
    (values, {"model": NetworkClassifier()}, "model of", "it is a NetworkClassifier for regression"),
    (tills, {"model": NetworkEstimator()}, "model of", "it is a NetworkEstimator for binary"),
    (tills, {"side_tables": side()["side_tables"] * 2}, "side_tables of", "'stock' is there twice"),
    (
        tills,
        {"side_tables": (*side()["side_tables"], *side(name="prices")["side_tables"])},
        "side_tables of",
        "'items' is there twice",
    ),
    (tills, {"derive": lambda: 1}, "derive of", "too many positional arguments"),
    (tills, {"demo": lambda folder, rows: 1}, "demo of", "missing a required argument: 'rows'"),
    (tills, {"derive": functools.partial(np.add, 1)}, "fields of", "got partial"),
    (tills, column(tills, ""), "name of column  of tills", "''"),
    (tills, column(tills, "label__"), "name of column label__ of tills", "rename it"),
    (tills, column(tills, "answer__x"), "name of column answer__x of tills", "rename it"),
    (tills, column(tills, "shop", minimum=3), "minimum of column shop of tills", "it is 3"),
    (tills, column(tills, "at", maximum=3), "maximum of column at of tills", "it is 3"),
    (tills, column(tills, "amount", minimum=2000), "minimum of column amount of tills", "maximum, but it is 2000"),
    (tills, column(tills, "amount", values=("1", "2")), "values of column amount of tills", "set type='text'"),
    (tills, column(tills, "shop", values=("a", "b", "a")), "values of column shop of tills", "'a' is there twice"),
    (tills, column(tills, "at", category=True), "category of column at of tills", "use parts"),
    (tills, column(tills, "amount", parts=("hour",)), "parts of column amount of tills", "set type='timestamp'"),
    (tills, column(tills, "at", parts=("hour", "hour")), "parts of column at of tills", "'hour' is there twice"),
    (tills, column(tills, "returned_after", feature=True), "feature of column returned_after", "set feature=False"),
    (tills, column(tills, "shop", example=3), "example of column shop of tills", "it is 3"),
    (tills, column(tills, "amount", example="3"), "example of column amount of tills", "it is '3'"),
    (tills, column(tills, "items", example=0.5), "example of column items of tills", "it is 0.5"),
    (tills, column(tills, "at", example="2024-01-01"), "example of column at of tills", "'2024-01-01'"),
    (tills, without(tills, "returned_after"), "column of the target of tills", "returned_after is not among"),
    (tills, target(tills, classes=("kept",)), "classes of the target of tills", "it is ('kept',)"),
    (tills, target(tills, classes=("kept", "kept")), "classes of the target of tills", "two different texts"),
    (several, target(several, classes=("slow", "quick")), "classes of the target of parcels", "kind='binary'"),
    (several, target(several, classes=("a", "b", "a")), "classes of the target of parcels", "different"),
    (values, target(values, classes=("low", "high")), "classes of the target of parcels", "left out of a regression"),
    (tills, column(tills, "shop", sensitive=True), "values of column shop of tills", "it is (): declare them"),
    (tills, column(tills, "items", sensitive=True, category=True), "values of column items of tills", "as texts"),
    (tills, {"source": Source(folder="../tills")}, "folder of the source of tills", "it is '../tills'"),
    (tills, {"source": Source(folder="tills\0")}, "folder of the source of tills", "printable"),
    (tills, {"source": FileSource(file="../a.csv", time_column="at")}, "file of the source of tills", "../a.csv"),
    *(
        (
            tills,
            {"source": Source(folder="tills", separator=sign)},
            "separator of the source of tills",
            f"it is {sign!r}",
        )
        for sign in ("", ";;", '"', "\n", "\r", "1", "a", ".", "-", "\u00a7", "\0")
    ),
    (tills, {"source": Source(folder="tills", decimal=";")}, "decimal of the source of tills", "be '.' or ','"),
    *(
        (
            tills,
            {"source": Source(folder="tills", thousands=sign)},
            "thousands of the source of tills",
            f"it is {sign!r}",
        )
        for sign in (".", "1", "-", ",,")
    ),
    *(
        (tills, {"source": Source(folder="tills", encoding=name)}, "encoding of the source of tills", "write utf-8")
        for name in ("utf-99", "", "hex", "rot13", "a\0b")
    ),
    (tills, side(source=Source(folder="a", decimal="x")), "decimal of the source of side table stock of tills", "'x'"),
    (tills, column(tills, "at", unit="seconds"), "unit of column at of tills", "it is 'seconds'"),
    (tills, side(source=Source(folder="a/../b")), "folder of the source of side table stock of tills", "without .."),
    (tills, target(tills, above=None), "above of the target of tills", "there is neither"),
    (tills, target(tills, positive="returned"), "above of the target of tills", "there are both"),
    (values, target(values, above=3), "above of the target of parcels", "it is 3"),
    (several, target(several, positive="slow"), "positive of the target of parcels", "it is 'slow'"),
    (tills, target(tills, log=True), "log of the target of tills", "it is True"),
    (parcels, target(parcels, above=3, positive=None), "column of the target of parcels", "outcome is of type text"),
    (values, target(values, column="pace"), "column of the target of parcels", "pace is of type text"),
    (parcels, target(parcels, column="price"), "column of the target of parcels", "price is of type number"),
    (several, target(several, column="price"), "column of the target of parcels", "price is of type number"),
    (parcels, target(parcels, positive="lost"), "positive of the target of parcels", "'lost'"),
    (parcels, column(parcels, "outcome", values=()), "positive of the target of parcels", "'late'"),
    (several, column(several, "pace", values=("slow", "usual")), "classes of the target of parcels", "'quick'"),
    (tills, column(tills, "returned_after", minimum=1), "above of the target of tills", "it is 0"),
    (tills, column(tills, "returned_after", maximum=0), "above of the target of tills", "it is 0"),
    (values, column(values, "price", minimum=0), "log of the target of parcels", "price is none or too low"),
    (values, column(values, "price", minimum=None), "log of the target of parcels", "price is none or too low"),
    (tills, {"model": Learner()}, "model of the use case tills", "Learner does not"),
    (tills, {"model": OneText()}, "model of the use case tills", "served of OneText is 'trees'"),
    (tills, {"weight": "prise"}, "weight of the use case tills", "prise is not among its columns"),
    (tills, {"weight": "shop"}, "weight of the use case tills", "column shop is of type text"),
    (values, {"weight": "price"}, "weight of the use case parcels", "name another column"),
    (tills, {"weight": "items"}, "weight of the use case tills", "items may be null"),
    (parcels, {"weight": "zone"}, "weight of the use case parcels", "zone has no minimum of 0 or more"),
    (values, {"model": NetworkRegressor(class_weight="balanced")}, "class_weight of the model", "'balanced'"),
    (values, {"model": NetworkRegressor(loss="cross_entropy")}, "loss of the model of parcels", "'cross_entropy'"),
    (values, {"model": Trees(class_weight="balanced")}, "class_weight of the model of parcels", "'balanced'"),
    (parcels, {"model": Trees(monotone={"carrier": 1})}, "monotone of the model of parcels", "'carrier' is none"),
    (parcels, {"model": Trees(monotone={"no": 1})}, "monotone of the model of parcels", "they are distance, weight"),
    (several, {"model": Trees(monotone={"weight": 1})}, "monotone of the model of parcels", "more than two classes"),
    (parcels, option(num_leafs=5), "options of the model of parcels", "no 'num_leafs' (the nearest is num_leaf)"),
    (parcels, option(qqqq=5), "options of the model of parcels", "it has no 'qqqq': write"),
    (parcels, option(eta=0.1), "options of the model of parcels", "'eta' follows from learning_rate"),
    (parcels, option(objective="poisson"), "options of the model of parcels", "from the use case's target"),
    (parcels, option(machines="10.0.0.1:1"), "options of the model of parcels", "'machines' is about something else"),
    (parcels, option(linear_tree=True), "options of the model of parcels", "'linear_tree' is about something else"),
    (parcels, option(mc_method="best"), "options of the model of parcels", "knows basic, intermediate, advanced"),
    (parcels, option(max_depth=[3]), "options of the model of parcels", "'max_depth' is [3]"),
    (parcels, option(max_depth=2**40), "options of the model of parcels", "'max_depth' is 1099511627776"),
    (parcels, option(lambda_l1=1.0, reg_alpha=2.0), "options of the model of parcels", "'lambda_l1' is there twice"),
    (tills, floor(0.5, "mae"), "metric of the gate MinMetric mae of tills", "'mae' where binary has f1"),
    (tills, gates(trivial(why=" ")), "why of the gate BetterThanTrivial f1 of tills", "write a sentence"),
    (tills, gates(trivial(metric="recall")), "metric of the gate BetterThanTrivial recall of tills", "the use case's"),
    (tills, floor(70), "floor of the gate MinMetric f1 of tills", "it is 70"),
    (tills, floor(-0.1), "floor of the gate MinMetric f1 of tills", "it is -0.1"),
    (values, floor(1.5, "r2"), "floor of the gate MinMetric r2 of parcels", "it is 1.5"),
    (tills, floor(1.1, "brier"), "floor of the gate MinMetric brier of tills", "it is 1.1"),
    (several, floor(2.1, "brier"), "floor of the gate MinMetric brier of parcels", "it is 2.1"),
    (tills, floor(-0.1, "log_loss"), "floor of the gate MinMetric log_loss of tills", "it is -0.1"),
    (tills, floor(1.1, "roc_auc"), "floor of the gate MinMetric roc_auc of tills", "it is 1.1"),
    (values, {"metric": "log_loss"}, "metric of the use case parcels", "'log_loss' where regression has rmse"),
    (values, floor(-3, "rmse"), "floor of the gate MinMetric rmse of parcels", "it is -3"),
    (tills, gates(AgainstNobody(metric="f1", why="a test")), "opponent of the gate AgainstNobody f1", "'nobody'"),
    (
        several,
        gates(BetterThanRule(metric="f1", why="a test")),
        "opponent of the gate BetterThanRule f1 of parcels",
        "of several classes",
    ),
    (parcels, gates(SourceUnchanged(why="a test")), "gates of the use case parcels", "remove the gate"),
    (
        tills,
        {**gates(NotWorseThanTrees(metric="f1", max_drop=0.1, why="a test")), "default_trees": False},
        "default_trees of the use case tills",
        "it is False: leave it out, or remove the gate",
    ),
    (tills, gates(Gate(metric="f1", why="a test")), "weigh of the gate Gate f1 of tills", "in docs/gates.md"),
    (tills, gates(Undecided(metric="f1", why="a test")), "weigh of the gate Undecided f1", "Undecided defines neither"),
    (tills, gates(Former(metric="f1", why="a test")), "weigh of the gate Former f1 of tills", "were called before"),
    (tills, {"source": NoRows()}, "kind of the source of tills", "NoRows lacks days and rows"),
    (tills, side(name=""), "name of side table  of tills", "''"),
    (tills, side(name="all stock"), "name of side table all stock of tills", "'all stock'"),
    (tills, side(on=()), "on of side table stock of tills", "it is ()"),
    (tills, side(on=("shop", "shop")), "on of side table stock of tills", "'shop' is there twice"),
    (tills, side(take=()), "take of side table stock of tills", "it is ()"),
    (tills, side(take=("items", "shop")), "take of side table stock of tills", "joined on"),
    (tills, side(take=("colour",)), "take of side table stock of tills", "colour is not among its columns"),
]


def sentence_of(make: Make, changes: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        make(**changes)
    return str(caught.value)


@pytest.mark.parametrize("case", [*TYPES, *TOGETHER], ids=lambda case: case[2] + " " + case[3])
def test_what_a_use_case_cannot_be_is_refused_by_a_sentence_when_it_is_made(case: Case) -> None:
    make, changes, begins, words = case
    sentence = sentence_of(make, changes)
    assert sentence.startswith(begins)
    assert words in sentence
    assert "\n" not in sentence
    assert str(changes.get("name", make().name)) in sentence


def test_every_demand_is_tested() -> None:
    tables: list[Any] = [
        DATASET, CALENDAR, SOURCE, COLUMN, TARGET, SIDE_TABLE, RECIPE, NetworkRegressor.demands, Trees.demands, GATE,
        OPERATION, USE_CASE,
    ]  # fmt: skip
    demands = {(field, must) for table in tables for field, must, _, _ in table}
    seen = {sentence_of(make, changes) for make, changes, _, _ in TOGETHER}
    broken = {(f, m) for f, m in demands for s in seen if s.startswith(f"{f} of ") and f" must {m}, but " in s}
    assert demands - broken == set()


POSSIBLE: list[tuple[Make, dict[str, Any]]] = [
    (tills, {"schedule": "30 3 * * mon-fri", "time_zone": "Europe/Berlin", "replay_from": date(2024, 1, 1)}),
    (tills, {"group": "shop", "known_at_column": "at", "label_delay_days": 3, "outlier_std": 4}),
    (tills, {"window_days": 9, "max_quarantined_fraction": 1}),
    (tills, {"calendar": "rhythm", "window_days": 9}),
    (tills, {"calendar": "weekdays", "window_days": 11}),
    (tills, {"calendar": BusinessDays(weekdays=("sun",), holidays=(date(2024, 1, 7),)), "window_days": 90}),
    (tills, {"calendar": (date(2024, 1, 31), date(2024, 2, 29))}),
    (parcels, {"group": "carrier", "schedule": "0 3 * * *", "known_at_column": None}),
    (tills, side()),
    (tills, {"source": Source(folder="/data/tills")}),
    (tills, {"source": Source(folder="tills", separator="\t", decimal=",", thousands=" ", encoding="cp1252")}),
    (tills, {"source": FileSource(file="a.csv", time_column="at", separator=";", decimal=",", thousands=".")}),
    (tills, column(tills, "at", unit="ms")),
    (tills, column(tills, "shop", sensitive=True, values=("north", "south"))),
    (tills, column(tills, "amount", sensitive=True)),
    (tills, {"side_tables": (*side(take=("till",))["side_tables"], *side(name="tills", on=("till",))["side_tables"])}),
    (tills, floor(0)),
    (values, floor(-1, "r2")),
    (several, floor(1.9, "brier")),
    (tills, floor(7, "log_loss")),
    (tills, gates(MinMetric(metric="f1", floor=0.5, first_only=True, why="a test"))),
    (tills, gates(NotSurelyWorse(metric="pr_auc", why="a test"))),
    (tills, gates(SourceUnchanged(why="a test"))),
    *(
        (make, {"metric": name, **gates(trivial(metric=name))})
        for make in (tills, several)
        for name in PROBABILITY_SCORES
    ),
    (several, column(several, "pace", values=("slow", "usual", "quick", "lost"))),
    (values, {"target": dataclasses.replace(TARGETS["regression"], log=False)}),
    (tills, gates(NotWorseThanReference(metric="recall", max_drop=0.1, why="a test"))),
    (tills, column(tills, "amount", example=3, minimum=3, maximum=3)),
    (tills, target(tills, above=0.5, unit="days")),
    (tills, {**target(tills, column="items"), **column(tills, "items", feature=False)}),
]


@pytest.mark.parametrize(("make", "changes"), POSSIBLE, ids=[str(case[1])[:60] for case in POSSIBLE])
def test_what_can_be_is_not_refused(make: Make, changes: dict[str, Any]) -> None:
    assert isinstance(make(**changes), UseCase)


JUNK: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        1,
        -1,
        10**30,
        0.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        "shop",
        b"x",
        (),
        ("x",),
        ("shop", 3),
        [1],
    ),
    *({}, {"a": 1}, object(), len, int, date(2024, 1, 1), ((),), (None,), np.arange(3), Column(name="x"), ConfigError),
)


def changed(part: Any, field: str, value: Any) -> Any:
    if isinstance(part, NetworkEstimator):
        return type(part)(**{**part.get_params(deep=False), field: value})
    return dataclasses.replace(part, **{field: value})


def spoilt(make: Make, field: str, value: Any) -> Any:
    """The use case with one value anywhere in it changed; `field` is like `columns.0.minimum`."""
    top, _, rest = field.partition(".")
    whole = getattr(make(), top)
    if not rest:
        return make(**{top: value})
    if not isinstance(whole, tuple):
        return make(**{top: changed(whole, rest, value)})
    at, _, name = rest.partition(".")
    parts = [changed(part, name, value) if i == int(at) else part for i, part in enumerate(whole)]
    return make(**{top: tuple(parts)})


def places(make: Make) -> list[str]:
    found = [field.name for field in dataclasses.fields(UseCase)]
    found += [f"model.{name}" for name in make().model.get_params()]
    for top in ("source", "target"):
        found += [f"{top}.{field.name}" for field in dataclasses.fields(getattr(make(), top))]
    for top in ("columns", "gates", "side_tables"):
        for at, part in enumerate(getattr(make(), top)):
            found += [f"{top}.{at}.{field.name}" for field in dataclasses.fields(part)]
    return found


whole_tills = functools.partial(tills, **side(), **floor(0.5))


@pytest.mark.slow
@pytest.mark.parametrize("make", [whole_tills, parcels, several, values], ids=["days", "two", "several", "values"])
def test_whatever_stands_in_a_field_is_accepted_or_refused_by_a_sentence(make: Make) -> None:
    """Whatever is accepted can be run: its digest can be taken, and its rules are there."""
    refused = 0
    for field, value in product(places(make), JUNK):
        try:
            use_case = spoilt(make, field, value)
        except ConfigError as error:
            assert re.match(r"[\w\[\]]+ of ", str(error)), str(error)
            refused += 1
        else:
            assert len(use_case.digest) == 64
            assert use_case.column_rules
    assert refused > 1000


def test_every_metric_has_a_range() -> None:
    assert {metric for metrics in METRICS.values() for metric in metrics} == set(RANGES)


ATOMS = "* 0 7 8 1-5 5-1 */5 */0 1,2 1-5/2 L LW W 15W mon MON-FRI JAN fri#2 5L L5 ? H R -1 */ 31 @daily".split()


def test_a_schedule_that_is_accepted_is_one_for_prefect_too() -> None:
    from prefect.client.schemas.schedules import CronSchedule

    lines = [" ".join([*"03***"[:at], atom, *"03***"[at + 1 :]]) for atom, at in product(ATOMS, range(5))]
    accepted = [line for line in lines if _is_cron(line)]
    assert len(accepted) > 30
    assert [line for line in accepted if CronSchedule(cron=line, timezone="UTC").cron != line] == []
