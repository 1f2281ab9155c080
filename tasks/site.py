"""Opens the site of a use case, with the rules of its expectations: every stage works with it."""

from expectations.suite import confirm, suite_rules
from ml.pipeline import site
from ml.pipeline.site import Site
from ml.storage.records import Night


def open_site(use_case_name: str) -> Site:
    """The use case's site. Raises UsageError for an unknown use case, ConfigError if its file or suite is unusable."""
    return site.open_site(use_case_name, suite_rules, confirm)


def site_of(night: Night) -> Site:
    """The night's site. Raises ConfigError if the use case, its suite or our code has changed since the night began."""
    return site.require_unchanged(open_site(night.use_case), night)
