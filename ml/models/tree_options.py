"""The further parameters of LightGBM that `Trees.options` may hold: which exist, and which are set elsewhere.

LightGBM only warns of a parameter that it does not know; here it is refused.
"""

import ctypes
import difflib
import functools
import json
import math
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ml.declarations import Broken, Demands, twice
from ml.errors import ConfigError

# What `options` may hold: LightGBM's parameters of how trees grow that have no parameter of their own here.
GROWTH = frozenset(
    """
    bagging_seed bin_construct_sample_cnt boost_from_average cat_l2 cat_smooth cegb_penalty_split cegb_tradeoff
    data_random_seed data_sample_strategy enable_bundle extra_seed extra_trees feature_fraction_bynode
    feature_fraction_seed feature_pre_filter histogram_pool_size is_enable_sparse lambda_l1 max_bin max_cat_threshold
    max_cat_to_onehot max_delta_step max_depth min_data_in_bin min_data_per_group min_gain_to_split
    min_sum_hessian_in_leaf monotone_constraints_method monotone_penalty neg_bagging_fraction num_grad_quant_bins
    other_rate path_smooth pos_bagging_fraction quant_train_renew_leaf stochastic_rounding top_rate use_quantized_grad
    """.split()
)
# Where the other ones are set.
ELSEWHERE = {
    **dict.fromkeys(("early_stopping_round", "early_stopping_min_delta", "first_metric_only"), "patience"),
    **dict.fromkeys(("is_unbalance", "scale_pos_weight"), "class_weight"),
    **dict.fromkeys(("bagging_fraction", "bagging_freq"), "subsample"),
    **dict.fromkeys(("objective", "num_class", "metric"), "the use case's target"),
    **dict.fromkeys(("categorical_feature", "ignore_column"), "the use case's columns"),
    "feature_fraction": "colsample_bytree",
    "lambda_l2": "reg_lambda",
    "learning_rate": "learning_rate",
    "min_data_in_leaf": "min_child_samples",
    "monotone_constraints": "monotone",
    "num_iterations": "rounds",
    "num_leaves": "num_leaves",
    "num_threads": "RETRAIN_THREADS",
    "seed": "the use case's seed",
    "weight_column": "the use case's weight",
}
# Of these LightGBM takes any word, and then does as if it were the first.
WORDS = {
    "data_sample_strategy": ("bagging", "goss"),
    "monotone_constraints_method": ("basic", "intermediate", "advanced"),
}


@functools.cache
def main_names() -> dict[str, str]:
    """The main name of each parameter, by its main name and its aliases, as LightGBM's library tells them.

    The library is asked without importing the package, which takes a second. Raises ConfigError if it does not load.
    """
    spec = find_spec("lightgbm")
    found = list((Path(spec.origin).parent / "lib").glob("lib_lightgbm.*")) if spec and spec.origin else []
    try:
        library = ctypes.CDLL(str(found[0]))
    except (IndexError, OSError) as error:
        raise ConfigError(
            "Trees need the package lightgbm and the system's library libgomp",
            "one of them is not installed",
            "install both (on Debian, libgomp is the package libgomp1)",
        ) from error
    length, size = ctypes.c_int64(), 2**20
    text = ctypes.create_string_buffer(size)
    library.LGBM_DumpParamAliases(ctypes.c_int64(size), ctypes.byref(length), text)
    aliases: dict[str, list[str]] = json.loads(text.value)
    return {name: main for main, others in aliases.items() for name in (main, *others)}


def _unknown(options: Mapping[str, object]) -> Broken:
    """The first option that LightGBM does not have, with the nearest name; False if it has all of them."""
    unknown = [name for name in options if name not in main_names()]
    near = difflib.get_close_matches(unknown[0], main_names(), n=1) if unknown else []
    return bool(unknown) and f"it has no {unknown[0]!r}" + (f" (the nearest is {near[0]})" if near else "")


def _set_elsewhere(options: Mapping[str, object]) -> Broken:
    """The first option that has its own place, in words; False if none has."""
    places = {name: ELSEWHERE[main_names()[name]] for name in options if main_names().get(name) in ELSEWHERE}
    return bool(places) and "{!r} follows from {}".format(*next(iter(places.items())))


def _not_of_growth(options: Mapping[str, object]) -> Broken:
    """The first option that is about something else than how trees grow; False if none is."""
    others = [name for name in options if main_names().get(name) not in GROWTH]
    return bool(others) and f"{others[0]!r} is about something else, like files, ranking or other machines"


def _other_word(options: Mapping[str, object]) -> Broken:
    """The first option whose word LightGBM does not know, and those that it knows; False if there is none."""
    for name, value in options.items():
        words = WORDS.get(main_names().get(name, ""))
        if words and value not in words:
            return f"{name!r} is {value!r}, where LightGBM knows {', '.join(words)}"
    return False


def _no_value(options: Mapping[str, object]) -> Broken:
    """The first option that is neither a finite number nor a text; False if there is none."""
    for name, value in options.items():
        if not isinstance(value, str) and not (isinstance(value, int | float) and math.isfinite(value)):
            return f"{name!r} is {value!r}"
    return False


def _too_large(options: Mapping[str, object]) -> Broken:
    """The first whole number of which LightGBM would keep the last 32 bits; False if there is none."""
    large = [name for name, value in options.items() if isinstance(value, int) and abs(value) >= 2**31]
    return bool(large) and f"{large[0]!r} is {options[large[0]]}"


def _twice(options: Mapping[str, object]) -> Broken:
    return twice(main_names().get(name, name) for name in options)


OPTIONS: Demands[Any, Any] = (
    ("options", "be parameters of LightGBM", lambda m, _: _unknown(m.options or {}), "write them as LightGBM does"),
    ("options", "not be set elsewhere", lambda m, _: _set_elsewhere(m.options or {}), "set that instead"),
    ("options", "be about how trees grow", lambda m, _: _not_of_growth(m.options or {}), "remove it"),
    ("options", "be words that LightGBM knows", lambda m, _: _other_word(m.options or {}), "write one of them"),
    ("options", "hold numbers and texts", lambda m, _: _no_value(m.options or {}), "write one"),
    ("options", "hold whole numbers below 2**31", lambda m, _: _too_large(m.options or {}), "write a smaller one"),
    ("options", "set each parameter once", lambda m, _: _twice(m.options or {}), "remove one of its names"),
)
