"""`retrain alerts`: sets alerts up, removes them, or sends one as a test. They are kept by Prefect's server."""

import argparse
import os
from datetime import timedelta
from urllib.parse import urlsplit

from deployments.prefect.alerts import NAMES, TEST, remove, send_test, set_up
from deployments.prefect.announcement import running_servers
from deployments.prefect.client import answers
from deployments.terminal import home_if_any, say, show
from ml.errors import PrefectUnavailable, UsageError
from ml.reporting.words import counted
from ml.settings import Settings


def alerts(options: argparse.Namespace) -> int:
    """Sets the alerts up, removes them, or sends a test alert."""
    settings, no_home = home_if_any()
    api = _api(settings, no_home)
    only_test = options.test and options.url is None
    if not options.remove and not only_test:
        _require_address(options.url)
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:
        if options.remove:
            remove(client)
        elif not only_test:
            set_up(client, options.url, options.kept_nights, timedelta(hours=options.silent_hours))
        tested = send_test(client, api) if options.test and not options.remove else None
    alert_names = [] if options.remove else [name for name in NAMES if name != TEST]
    show(options, {"alerts": alert_names, "prefect": api, "test": tested}, "")
    if not options.json:
        if not only_test:
            say("The alerts are removed." if options.remove else "Prefect calls the address when", *_words(options))
        if tested:
            say(f"A test was sent to {tested['host']}, which answered {tested['status']}.")
    return 0


def _words(options: argparse.Namespace) -> list[str]:
    if options.remove:
        return []
    return [
        "  a night or a backfill fails, crashes or takes too long, and when it recovers,",
        "  data are rejected,",
        "  an operator is asked, because gates cannot tell (on_inconclusive) or the source has changed,",
        "  the source has changed and nobody is asked, because another gate blocks too or the answer was no before,",
        "  the twin of a refit takes over,",
        f"  the champion was kept for {counted(options.kept_nights, 'night')}, and again after as many,",
        f"  a use case has had no successful night for {counted(options.silent_hours, 'hour')}.",
        "Runs of schedules and deployments are told of; dry runs, and what a command runs by itself, are not.",
    ]


def _api(settings: Settings, no_home: str | None) -> str:
    """The API of the Prefect server that runs the nights.

    Raises UsageError if there is no server that keeps running, PrefectUnavailable if it does not answer.
    """
    servers = running_servers(settings)
    api = servers.prefect_api if servers else os.environ.get("PREFECT_API_URL")
    if not api:
        value = f"there is no home here ({no_home})" if no_home else "`retrain up` does not run here"
        raise UsageError(
            "alerts are kept by the Prefect server that runs the nights",
            f"{value}, and PREFECT_API_URL is not set",
            "start retrain up in another terminal",
        )
    if not answers(f"{api}/health"):
        raise PrefectUnavailable("the server at PREFECT_API_URL must answer", f"{api} does not", "start it")
    return api


def _require_address(url: str | None) -> None:
    """Raises UsageError for what is no address, without repeating it: an address may be a secret, as Slack's are."""
    if url is None or urlsplit(url).scheme not in {"http", "https"} or not urlsplit(url).netloc:
        raise UsageError("URL is the http or https address to call", "it is not", "write https://...")
