"""A use case's site with its expectations: what every stage works with."""

from expectations.suite import confirm, suite_rules
from ml.pipeline import site
from ml.pipeline.site import Site
from ml.storage.records import Night


def open_site(use_case_name: str) -> Site:
    """Raises UsageError for an unknown use case, ConfigError for an unreadable one or its suite."""
    return site.open_site(use_case_name, suite_rules, confirm)


def site_of(night: Night) -> Site:
    """The night's site. Raises ConfigError if the use case, its suite or our sources changed since the night began."""
    return site.require_unchanged(open_site(night.use_case), night)
