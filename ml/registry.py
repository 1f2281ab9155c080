"""The only module that talks to MLflow. It writes runs, versions, tags and aliases; files go through `ml.store`.

Nothing here catches a missing model as "none" unless the registry itself answered so.
"""

import contextlib
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from ml import paths
from ml.digests import digest_file, digest_value
from ml.errors import ConfigError, RegistryUnavailable, without_passwords
from ml.serving.columns import Column
from ml.serving.output import Output
from ml.settings import Settings
from ml.store import open_store

RUN_KEY = "run_key"
CHAMPION, REFERENCE = "champion", "reference"
LIBRARIES = ("mlflow", "numpy", "pandas", "safetensors", "torch")
NOT_THERE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
EXISTS = {"RESOURCE_ALREADY_EXISTS"}
UNFINISHED = {"PENDING", "FAILED"}
DATABASE_ATTEMPTS = 3  # MLflow's own 10 take 101 s, and a task makes four rounds of them
ANSWERED = NOT_THERE | EXISTS  # MLflow is there and says no: a mistake of ours, not an outage


@dataclass(frozen=True, kw_only=True)
class Version:
    """A registered version, the run that it came from, its age, and whether a night of ours registered it."""

    number: int
    run_id: str
    age_seconds: float
    ours: bool


class Registry:
    """MLflow's tracking store and model registry at one address, for one use case's experiment and model."""

    def __init__(self, settings: Settings, use_case: str) -> None:
        self.uri, self.store_uri, self.name = settings.tracking_uri, open_store(settings.store).uri, use_case
        with self._errors():
            self.client = _client(settings.tracking_uri)

    def run_id(self, run_key: str, run_name: str, tags: Mapping[str, str]) -> str:
        """The run with this key: the one that there is, or a new one."""
        with self._errors():
            experiment = self._experiment()
            found = self.client.search_runs([experiment], filter_string=f"tags.{RUN_KEY} = '{run_key}'")
            if found:
                return found[0].info.run_id
            run = self.client.create_run(experiment, run_name=run_name, tags={RUN_KEY: run_key, **tags})
            return run.info.run_id

    def _experiment(self) -> str:
        found = self.client.get_experiment_by_name(self.name)
        if found is not None:
            return found.experiment_id
        try:
            return self.client.create_experiment(self.name, artifact_location=f"{self.store_uri}/{paths.mlflow_root()}")
        except self._exception() as error:
            if error.error_code not in EXISTS:
                raise
            return self.client.get_experiment_by_name(self.name).experiment_id

    def finish_run(
        self,
        run_id: str,
        history: Mapping[str, Mapping[int, float]],
        params: Mapping[str, Any],
        tags: Mapping[str, str],
    ) -> None:
        """All there is to say of a run in one call, a metric's values by step, and then its end."""
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(name, value, 0, step) for name, values in history.items() for step, value in values.items()]
        shown = [Param(name, str(value)[:500]) for name, value in params.items()]
        told = [RunTag(name, value) for name, value in tags.items()]
        with self._errors():
            self.client.log_batch(run_id, metrics=metrics, params=shown, tags=told)
            self.client.set_terminated(run_id)

    def version_of(self, run_key: str) -> int | None:
        """The version registered under this key, if any."""
        return min(self._versions_of(run_key), default=None)

    def _versions_of(self, run_key: str) -> list[int]:
        with self._errors():
            found = self.client.search_model_versions(f"name = '{self.name}' and tags.`{RUN_KEY}` = '{run_key}'")
        return sorted(int(version.version) for version in found)

    def register(self, run_id: str, run_key: str, tags: Mapping[str, str]) -> int:
        """The one version of this run key; made if there is none."""
        if self.version_of(run_key) is None:
            self._make_version(run_id, {RUN_KEY: run_key, **tags})
        first, *others = self._versions_of(run_key)
        for version in others:  # a request whose answer was lost is sent again, and another machine may run the same
            self.delete_version(version)
        return first

    def _make_version(self, run_id: str, tags: Mapping[str, str]) -> None:
        with self._errors():
            try:
                self.client.create_registered_model(self.name)
            except self._exception() as error:
                if error.error_code not in EXISTS:
                    raise
            source = f"{self.store_uri}/{paths.model_folder(run_id)}"
            self.client.create_model_version(self.name, source, run_id, tags=dict(tags))

    def versions(self) -> list[Version]:
        """All versions, oldest first."""
        with self._errors():
            found = self.client.search_model_versions(f"name = '{self.name}'")
        return sorted(map(_version, found), key=lambda version: version.number)

    def aliased(self) -> set[int]:
        """Versions that some alias names."""
        with self._errors():
            try:
                return {int(version) for version in self.client.get_registered_model(self.name).aliases.values()}
            except self._exception() as error:
                if error.error_code in NOT_THERE:
                    return set()
                raise

    def run_ids(self, status: str | None = None) -> list[str]:
        """The runs of the use case, deleted ones too; of one status if it is given."""
        with self._errors():
            experiment = self.client.get_experiment_by_name(self.name)
            chosen = f"attributes.status = '{status}'" if status else ""
            return self._run_ids([experiment.experiment_id], chosen) if experiment else []

    def every_run_id(self) -> set[str]:
        """The runs of every experiment of this MLflow, deleted ones too."""
        from mlflow.entities import ViewType

        with self._errors():
            experiments = self.client.search_experiments(ViewType.ALL)
            return set(self._run_ids([experiment.experiment_id for experiment in experiments], ""))

    def _run_ids(self, experiments: list[str], chosen: str) -> list[str]:
        from mlflow.entities import ViewType

        pages = [self.client.search_runs(experiments, chosen, ViewType.ALL)]
        while pages[-1].token:
            pages.append(self.client.search_runs(experiments, chosen, ViewType.ALL, page_token=pages[-1].token))
        return [run.info.run_id for page in pages for run in page]

    def end_run(self, run_id: str) -> None:
        """Marks a run that nobody runs any more."""
        with self._errors():
            self.client.set_terminated(run_id, "KILLED")

    def failed_models(self) -> list[str]:
        """Logged models that are no whole ones. Ours are versions only; others may log here too."""
        with self._errors():
            experiment = self.client.get_experiment_by_name(self.name)
            found = self.client.search_logged_models([experiment.experiment_id]) if experiment else []
        return [model.model_id for model in found if model.status.value in UNFINISHED]

    def delete_model(self, model_id: str) -> None:
        with self._errors():
            self.client.delete_logged_model(model_id)

    def delete_version(self, version: int) -> None:
        with self._errors():
            try:
                self.client.delete_model_version(self.name, str(version))
            except self._exception() as error:
                if error.error_code not in NOT_THERE:
                    raise

    def tag_version(self, version: int, tags: Mapping[str, str]) -> None:
        with self._errors():
            for key, value in tags.items():
                self.client.set_model_version_tag(self.name, str(version), key, value)

    def describe_version(self, version: int, text: str) -> None:
        with self._errors():
            self.client.update_model_version(self.name, str(version), description=text)

    def alias(self, alias: str) -> int | None:
        """The version that the alias points to; None only where MLflow answered that there is none."""
        with self._errors():
            try:
                return int(self.client.get_model_version_by_alias(self.name, alias).version)
            except self._exception() as error:
                if error.error_code in NOT_THERE:
                    return None
                raise

    def set_alias(self, alias: str, version: int) -> None:
        """Raises ConfigError for a version that MLflow no longer has."""
        with self._errors():
            try:
                self.client.set_registered_model_alias(self.name, alias, str(version))
            except self._exception() as error:
                if error.error_code not in NOT_THERE:
                    raise
                raise ConfigError(
                    f"the alias {alias} of {self.name} points to a version that MLflow has",
                    f"version {version} is gone",
                    f"retrain promote {self.name} --version N, with one that is there",
                ) from error

    @staticmethod
    def _exception() -> Any:
        from mlflow.exceptions import MlflowException

        return MlflowException

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            if getattr(error, "error_code", None) in ANSWERED:
                raise
            raise RegistryUnavailable(
                f"MLflow at {self.uri} must answer",
                self._seen(error),
                "start it, or check MLFLOW_TRACKING_URI",
            ) from None  # the causes quote the address, with its password

    @staticmethod
    def _seen(error: BaseException) -> str:
        """The first line of what went wrong at the bottom: MLflow wraps a refused connection in four exceptions."""
        while error.__cause__ or error.__context__:
            error = error.__cause__ or error.__context__ or error
        said = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        return without_passwords(said.splitlines()[0])[:200].rstrip(". ")


def _version(found: Any) -> Version:
    age = time.time() - found.creation_timestamp / 1000
    return Version(number=int(found.version), run_id=found.run_id, age_seconds=age, ours=RUN_KEY in found.tags)


def _client(uri: str) -> Any:
    from mlflow import MlflowClient

    _quiet()
    if not uri.startswith("http"):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = DATABASE_ATTEMPTS
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri, uri)  # never mlflow.set_tracking_uri: it writes the address into the environment


def _quiet() -> None:
    """They log each error with its traceback before they raise it; ours is one sentence."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def load_model(folder: Path) -> Any:
    """The model in a local folder, as any MLflow user gets it."""
    import mlflow.pyfunc

    _quiet()
    return mlflow.pyfunc.load_model(str(folder))


def write_pyfunc(
    folder: Path, *, code: Path, data: Path, columns: tuple[Column, ...], output: Output, example: pd.DataFrame
) -> None:
    """An MLflow model folder around packaged data and its own code; the code folder's name is its loader module.

    The same data and code give the same bytes: MLflow's own time and random identifier are replaced.
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature

    _quiet()
    identity = digest_value([code.name, *(digest_file(path) for path in sorted(data.iterdir()))])
    mlflow.pyfunc.save_model(
        folder,
        loader_module=code.name,
        data_path=str(data),
        code_paths=[str(code)],
        mlflow_model=Model(model_uuid=identity[:32], utc_time_created="1970-01-01 00:00:00"),
        signature=ModelSignature(_input_schema(columns), _output_schema(output)),
        input_example=example,
        pip_requirements=[f"{name}=={metadata.version(name).split('+')[0]}" for name in LIBRARIES],
    )


def _input_schema(columns: tuple[Column, ...]) -> Any:
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType

    # MLflow refuses whole numbers where it was promised floats, and floats (nulls) where it was promised whole ones:
    # numbers are left to the model's own check, which refuses only what is no number.
    types = {"text": DataType.string, "timestamp": DataType.datetime}
    anything = AnyType()  # type: ignore[no-untyped-call]
    return Schema([ColSpec(types.get(column.type, anything), column.name) for column in columns])


def _output_schema(output: Output) -> Any:
    from mlflow.types import ColSpec, DataType, Schema

    text, number = DataType.string, DataType.double
    if output.kind == "regression":
        answers = [ColSpec(number, "prediction")]
    elif output.kind == "binary":
        answers = [ColSpec(text, "prediction"), ColSpec(number, "probability")]
    else:
        shares = [ColSpec(number, f"probability_{name}") for name in output.classes]
        answers = [ColSpec(text, "prediction"), *shares]
    return Schema([*answers, ColSpec(text, "broken_rule")])
