"""`retrain demo-data`: writes the data of the example use cases."""

import argparse

from deployments.terminal import chosen_names, home_settings, show
from ml.errors import UsageError
from ml.settings import Settings
from ml.use_case.demo import write_demo_data
from ml.use_case.loading import load_use_case


def demo_data(options: argparse.Namespace) -> int:
    """Writes the data sets that are not there yet, of all use cases or of one."""
    names = chosen_names(options, Settings.from_environment())
    settings = home_settings()
    for name in names:
        use_case = load_use_case(name, settings.project)
        if options.use_case is not None and use_case.demo is None:
            raise UsageError(
                "demo data comes with the examples", f"{name} brings none", "put its data where its source says"
            )
        write_demo_data(settings, use_case)
    show(options, {"written": names, "folder": str(settings.data)}, f"Demo data is in {settings.data}")
    return 0
