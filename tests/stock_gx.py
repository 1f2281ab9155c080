"""Great Expectations as it comes: a frame judged by its own metrics, for the tests that hold ours against it."""

import functools
from collections.abc import Sequence
from typing import Any

import pandas as pd

from expectations.suite import Verdict, to_gx
from ml.serving.rules import Rule


@functools.cache
def _context() -> Any:
    """The process's GX project: in memory, with nothing drawn."""
    from great_expectations import get_context
    from great_expectations.data_context.types.base import DataContextConfig, InMemoryStoreBackendDefaults

    config = DataContextConfig(
        store_backend_defaults=InMemoryStoreBackendDefaults(),
        progress_bars={"globally": False, "metric_calculations": False},
        analytics_enabled=False,
    )
    return get_context(mode="ephemeral", project_config=config)


def stock_suite(rules: Sequence[Rule]) -> Any:
    from great_expectations import ExpectationSuite

    expectations = [{**to_gx(rule), "meta": {"position": position}} for position, rule in enumerate(rules)]
    return ExpectationSuite("rules", expectations=expectations)


def stock_verdicts(frame: pd.DataFrame, rules: Sequence[Rule]) -> list[Verdict]:
    """In the order of the rules: GX puts those that it could not evaluate first."""
    sources = _context().data_sources
    asset = sources.add_pandas("frames").add_dataframe_asset("rows")
    try:
        batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
        results = batch.validate(stock_suite(rules), result_format="BASIC").results
    finally:
        sources.delete("frames")
    by_position = {result.expectation_config.meta["position"]: result for result in results}
    assert sorted(by_position) == list(range(len(rules)))
    assert all(result.result for result in results), results
    found = [by_position[position] for position in range(len(rules))]
    return [Verdict(result.success, result.result["unexpected_count"]) for result in found]
