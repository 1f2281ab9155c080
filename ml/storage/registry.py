"""MLflow: runs, registered versions, tags and aliases. No other module talks to it. Files go through the store.

"There is none" is returned only if MLflow itself answered so. An MLflow that does not answer raises
RegistryUnavailable; one that answers no raises ConfigError.

Others may use the same MLflow, for example another installation of this project. What is ours has our tags, with the
identifier of our store. Nothing else is judged, changed or deleted, whatever it is called.

The ledger names a version by the run of its night, and the version's files lie in the folder of that run. If MLflow has
lost the run, it is made again. MLflow gives the new run another identifier; its tag `ledger_run` holds the identifier
that the ledger uses.
"""

import contextlib
import logging
import secrets
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from ml.digests import digest_file, digest_value
from ml.errors import ConfigError, RegistryUnavailable, without_passwords
from ml.serving.columns import Column
from ml.serving.model import ALL, EITHER
from ml.serving.output import Output, answer_names
from ml.serving.reasons import USUAL
from ml.settings import Settings
from ml.storage import paths
from ml.storage.locks import held_lock
from ml.storage.records import Identity, Registered, digest_of_files
from ml.storage.store import open_store

log = logging.getLogger("retrain.registry")

USE_CASE = "use_case"  # a tag of every run and version of ours
TRAINING_KEY = "training_key"  # another; those made before 2026-11-28 have RUN_KEY in its place
RUN_KEY = "run_key"
MODEL_DIGEST = "model_digest"  # a tag of every version of ours
REFIT_OF = "refit_of"  # a tag of a refit and of its run: the number of the judged version
OURS = "retrain.use_case"  # a tag of our experiments and registered models: the use case
STORE = "retrain.store"  # a tag of our experiments, registered models and versions: the identifier of our store
LEDGER_RUN = "ledger_run"  # a tag of a run that was made again, and of its versions: the run that the ledger names
LONGEST_TAG = 4_900  # characters; MLflow refuses a run's tag of more than 8,000 and a version's of more than 5,000
CHAMPION, REFERENCE = "champion", "reference"
NOT_THERE = {"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"}
EXISTS = {"RESOURCE_ALREADY_EXISTS"}
DATABASE_ATTEMPTS = 3  # by default MLflow tries 10 times in 101 s, and our tasks try four times themselves
START_SECONDS = 120.0  # a new database took 1.7 to 8.7 s
ANSWERED = NOT_THERE | EXISTS | {"INVALID_STATE", "PERMISSION_DENIED"}  # MLflow answers and refuses: no outage
DELETED = "deleted"  # MLflow's word for what lies in its trash


@dataclass(frozen=True, kw_only=True)
class Version:
    """A registered version as MLflow has it.

    `run_id` is the run that the ledger names and `mlflow_run` MLflow's own, which differs after the run was made again.
    `ours` says whether a night of this installation registered the version.
    """

    number: int
    run_id: str
    mlflow_run: str
    model_digest: str
    age_seconds: float
    ours: bool

    @property
    def identity(self) -> Identity:
        return self.run_id, self.model_digest


class Registry:
    """MLflow's tracking store and model registry at one address, for one use case's experiment and model."""

    def __init__(self, settings: Settings, use_case: str) -> None:
        self.uri, self.store, self.name = settings.tracking_uri, open_store(settings.store), use_case
        self._known_store_id: str | None = None
        with self._errors():
            self.client = _client(settings.tracking_uri)

    def require_free_name(self) -> None:
        """Raises ConfigError if somebody else made the registered model of our name, by which services load it."""
        taken = self.taken_by()
        if taken is not None:
            raise ConfigError(
                f"the registered model {self.name} in MLflow is ours",
                f"{taken} made it",
                "rename that model in MLflow, or the use case",
            )

    def taken_by(self) -> str | None:
        """Who else made the registered model of our name, in words; None if it is ours or there is none."""
        with self._errors():
            try:
                tags = self.client.get_registered_model(self.name).tags
            except self._exception() as error:
                if error.error_code in NOT_THERE:
                    return None
                raise
        if tags.get(STORE, self._store_id()) != self._store_id():
            return f"another installation of nightly-retrain, with another store than {self.store.uri},"
        ours = tags.get(OURS) == self.name or any(version.ours for version in self.versions())
        return None if ours else "somebody else"

    def _store_id(self) -> str | None:
        """The identifier of our store; None as long as nothing of ours was written to MLflow."""
        if self._known_store_id is None:
            self._known_store_id = (self.store.get(paths.store_id()) or b"").decode() or None
        return self._known_store_id

    def _own_tags(self) -> dict[str, str]:
        """The tag that marks something as ours. Gives our store its identifier if it has none."""
        if self._store_id() is None:
            self.store.create(paths.store_id(), secrets.token_hex(8).encode())  # unless another process was first
        return {STORE: str(self._store_id())}

    def run_id(self, key: str, run_name: str, tags: Mapping[str, str], known: str | None = None) -> str:
        """The identifier of the run with this training key, as the ledger names it. The run is created if there is
        none, and taken out of MLflow's trash if it lies there.

        `known` is the run that the ledger names already, if it does. If MLflow has lost that run, it is made again.
        """
        with self._errors():
            return _ledger_run(self._run_of_key(key, run_name, tags, known))

    def _run_of_key(self, key: str, run_name: str, tags: Mapping[str, str], known: str | None) -> Any:
        experiment = self._experiment()
        if not self._runs_of(experiment, key, known):
            made_again = {LEDGER_RUN: known} if known else {}
            tags = {USE_CASE: self.name, **tags, TRAINING_KEY: key, **made_again}
            self.client.create_run(experiment, run_name=run_name, tags=tags)
        first = self._runs_of(experiment, key, known)[0]  # a request whose answer was lost may have made two
        if first.info.run_id != _ledger_run(first):  # the link lets MLflow's page of the new run show the old files
            self.store.link(paths.run_folder(first.info.run_id), paths.run_folder(_ledger_run(first)))
        self._restore(first)
        return first

    def _runs_of(self, experiment: str, key: str, known: str | None) -> list[Any]:
        """The runs with this key, oldest first; only the one that the ledger names if that is `known`."""
        from mlflow.entities import ViewType

        oldest_first = ["attributes.start_time ASC"]
        for tag in (TRAINING_KEY, RUN_KEY):
            runs = self.client.search_runs([experiment], f"tags.{tag} = '{key}'", ViewType.ALL, order_by=oldest_first)
            if runs:
                break
        return [run for run in runs if known in {None, _ledger_run(run)}]

    def _restore(self, run: Any) -> None:
        if run.info.lifecycle_stage == DELETED:
            self.client.restore_run(run.info.run_id)

    def deleted_experiment(self) -> str | None:
        """The identifier of our experiment if somebody deleted it and MLflow can still restore it; else None."""
        with self._errors():
            _, experiment = self._find_experiment()
        return experiment.experiment_id if experiment and experiment.lifecycle_stage == DELETED else None

    def restore_experiment(self, experiment: str) -> None:
        """Takes it out of MLflow's trash, with all of its runs."""
        with self._errors():
            self.client.restore_experiment(experiment)

    def _experiment(self) -> str:
        """The identifier of our experiment, which is made if there is none. Raises ConfigError if somebody deleted
        it."""
        self._own_tags()
        name, experiment = self._find_experiment()
        if experiment is None:
            return self._make_experiment(name)
        if experiment.lifecycle_stage == DELETED:
            raise ConfigError(
                f"the MLflow experiment {name} is there",
                "somebody deleted it",
                f"retrain doctor {self.name} --mend restores it with all of its runs",
            )
        return str(experiment.experiment_id)

    def _find_experiment(self) -> tuple[str, Any | None]:
        """The name of our experiment, and the experiment if it is there.

        The name is the use case's. If somebody else has an experiment of that name, it is `<use case>
        (nightly-retrain)`; if another installation has that too, our store's identifier is added.
        """
        prefix = f"{self.name} (nightly-retrain"
        for name in (self.name, f"{prefix})"):
            experiment = self.client.get_experiment_by_name(name)
            if experiment is None or self._is_ours(experiment):
                return name, experiment
        unique_name = f"{prefix} {self._store_id()})"
        return unique_name, self.client.get_experiment_by_name(unique_name)

    def _is_ours(self, experiment: Any) -> bool:
        """Whether an experiment has our tags, or, if it is older than our tags, has its files in our store."""
        if STORE in experiment.tags:
            return bool(experiment.tags[STORE] == self._store_id() and experiment.tags.get(OURS) == self.name)
        place = experiment.artifact_location.removeprefix("file://").rstrip("/")
        return bool(experiment.tags.get(OURS) == self.name or place == f"{self.store.uri}/{paths.mlflow_root()}")

    def _make_experiment(self, name: str) -> str:
        place, tags = f"{self.store.uri}/{paths.mlflow_root()}", {OURS: self.name, **self._own_tags()}
        try:
            return str(self.client.create_experiment(name, artifact_location=place, tags=tags))
        except self._exception() as error:
            if error.error_code not in EXISTS:
                raise
            return self._experiment()

    def finish_run(
        self,
        run_id: str,
        history: Mapping[str, Mapping[int, float]],
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        name: str | None = None,
    ) -> None:
        """Writes metrics, parameters and tags of a run in one call, then gives it its last name and ends it.

        `history` is metric to step to value. If MLflow has lost the run, only the log says so: the report in the store
        has all of it.
        """
        from mlflow.entities import Metric, Param, RunTag

        metrics = [Metric(name, value, 0, step) for name, values in history.items() for step, value in values.items()]
        shown = [Param(name, str(value)[:500]) for name, value in params.items()]
        run_tags = [RunTag(name, cut(value)) for name, value in tags.items()]
        with self._errors():
            run = self._run(run_id)
            if run is None:
                log.warning("MLflow no longer has the run %s: its metrics stand in the report only.", run_id)
                return
            self._restore(run)
            self.client.log_batch(run.info.run_id, metrics=metrics, params=shown, tags=run_tags)
            self.client.update_run(run.info.run_id, name=name)
            if run.info.status != "FINISHED":  # a run that has ended keeps the time of its end
                self.client.set_terminated(run.info.run_id)

    def mlflow_run(self, run_id: str) -> str | None:
        """MLflow's identifier of the run that the ledger calls `run_id`; None if MLflow does not have it."""
        with self._errors():
            run = self._run(run_id)
        return None if run is None else str(run.info.run_id)

    def _run(self, run_id: str) -> Any | None:
        """The run that the ledger calls `run_id`: that very run, or the one that was made again for it."""
        try:
            return self.client.get_run(run_id)
        except self._exception() as error:
            if error.error_code not in NOT_THERE:
                raise
        _, experiment = self._find_experiment()
        if experiment is None:
            return None
        made_again = f"tags.{LEDGER_RUN} = '{run_id}'"
        return next(iter(self.client.search_runs([experiment.experiment_id], made_again)), None)

    def version_of(self, key: str) -> int | None:
        """The number of the version registered under this training key; None if there is none."""
        return min(self._versions_of(key), default=None)

    def _versions_of(self, key: str) -> list[int]:
        with self._errors():
            for tag in (TRAINING_KEY, RUN_KEY):
                versions = self.client.search_model_versions(f"name = '{self.name}' and tags.`{tag}` = '{key}'")
                if versions:
                    break
        return sorted(int(version.version) for version in versions)

    def number_of(self, model: Registered) -> int | None:
        """MLflow's number of the ledger's version; None if MLflow does not have it. It may differ from the ledger's."""
        condition = f"name = '{self.name}' and tags.`{MODEL_DIGEST}` = '{digest_of_files(model.files)}'"
        numbers = [v.number for v in self._versions(condition) if v.ours and v.identity == model.identity]
        return model.version if model.version in numbers else min(numbers, default=None)

    def register(self, run_id: str, key: str, tags: Mapping[str, str], above: int = 0) -> int:
        """The number of the one version of this training key, which is made if there is none.

        A new version gets a number greater than `above`: the ledger has given the smaller numbers to other versions,
        which MLflow may have lost.
        """
        if self.version_of(key) is None:
            self._make_version_above(above, run_id, key, tags)
        # There may be several: a request whose answer was lost is sent again, and another machine may run the same.
        first, *others = self._versions_of(key)
        for version in set(others) - self.aliased():  # a version that an alias names is somebody's own copy
            self.delete_version(version)
        return first

    def _make_version_above(self, above: int, run_id: str, key: str, tags: Mapping[str, str]) -> None:
        """Makes and deletes versions until a number is great enough: MLflow never gives a deleted number again."""
        while max(self._versions_of(key), default=0) <= above:
            self._make_version(run_id, {TRAINING_KEY: key, **tags})
            for number in self._versions_of(key):
                if number <= above:
                    self.delete_version(number)

    def _make_version(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.require_free_name()
        with self._errors():
            self._make_registered_model()
            run = self._run(run_id)
            if run is None:
                name = f"{self.name} {tags.get('as_of', '')}".rstrip()
                run = self._run_of_key(tags[TRAINING_KEY], name, {}, known=run_id)
            made_again = {} if run.info.run_id == run_id else {LEDGER_RUN: run_id}
            source = f"{self.store.uri}/{paths.model_folder(run_id)}"
            all_tags = {**tags, **made_again, **self._own_tags()}
            self.client.create_model_version(self.name, source, run.info.run_id, tags=all_tags)

    def takes(self, run_id: str) -> dict[str, str]:
        """The tag that says which rows a version takes, from its files; none for versions from before 2026-11-28."""
        from mlflow.models import Model

        data = self.store.get(f"{paths.model_folder(run_id)}/MLmodel")
        if data is None:
            return {}
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "MLmodel").write_bytes(data)
            words = (Model.load(folder).metadata or {}).get("takes")
        return {"takes": cut(words)} if words else {}

    def _make_registered_model(self) -> None:
        tags = {OURS: self.name, **self._own_tags()}
        try:
            self.client.create_registered_model(self.name, tags=tags)
        except self._exception() as error:
            if error.error_code not in EXISTS:
                raise
            if STORE not in self.client.get_registered_model(self.name).tags:  # older than this tag
                self.client.set_registered_model_tag(self.name, STORE, tags[STORE])

    def versions(self) -> list[Version]:
        """All versions of our registered model by number, also those that others registered."""
        return self._versions(f"name = '{self.name}'")

    def _versions(self, condition: str) -> list[Version]:
        with self._errors():
            versions = self.client.search_model_versions(condition)
        store = self._store_id()
        return sorted((_version(version, store) for version in versions), key=lambda version: version.number)

    def needs_files(self, run_id: str) -> int:
        """How many versions, of any registered model, use the files of this run."""
        runs = {run_id} | {version.mlflow_run for version in self.versions() if version.run_id == run_id}
        with self._errors():
            return sum(len(self.client.search_model_versions(f"run_id = '{run}'")) for run in runs)

    def aliased(self) -> set[int]:
        """The numbers of the versions that an alias names."""
        with self._errors():
            try:
                return {int(version) for version in self.client.get_registered_model(self.name).aliases.values()}
            except self._exception() as error:
                if error.error_code in NOT_THERE:
                    return set()
                raise

    def running(self) -> list[str]:
        """The identifiers of our runs that MLflow takes for running, also of those in its trash."""
        with self._errors():
            _, experiment = self._find_experiment()
            if experiment is None:
                return []
            running = f"attributes.status = 'RUNNING' and tags.{USE_CASE} = '{self.name}'"
            ours = (f"{running} and tags.{tag} LIKE '%'" for tag in (TRAINING_KEY, RUN_KEY))
            return [run for condition in ours for run in self._run_ids([experiment.experiment_id], condition)]

    def every_run_id(self) -> set[str]:
        """The identifiers of all runs of all experiments of this MLflow, also of deleted ones."""
        from mlflow.entities import ViewType

        with self._errors():
            experiments = self.client.search_experiments(ViewType.ALL)
            return set(self._run_ids([experiment.experiment_id for experiment in experiments], ""))

    def _run_ids(self, experiments: list[str], condition: str) -> list[str]:
        from mlflow.entities import ViewType

        pages = [self.client.search_runs(experiments, condition, ViewType.ALL)]
        while pages[-1].token:
            pages.append(self.client.search_runs(experiments, condition, ViewType.ALL, page_token=pages[-1].token))
        return [run.info.run_id for page in pages for run in page]

    def end_run(self, run_id: str) -> None:
        """Marks a run as killed, because nobody runs it any more."""
        with self._errors():
            self.client.set_terminated(run_id, "KILLED")

    def delete_version(self, version: int) -> None:
        """Deletes the version, not its files. Nothing happens if MLflow does not have it."""
        with self._errors():
            try:
                self.client.delete_model_version(self.name, str(version))
            except self._exception() as error:
                if error.error_code not in NOT_THERE:
                    raise

    def tag_version(self, version: int, tags: Mapping[str, str]) -> None:
        """Sets tags of the version; too long values are cut."""
        with self._errors():
            for key, value in tags.items():
                self.client.set_model_version_tag(self.name, str(version), key, cut(value))

    def describe_version(self, version: int, text: str) -> None:
        """Sets the description of the version; a too long one is cut."""
        with self._errors():
            self.client.update_model_version(self.name, str(version), description=cut(text))

    def alias(self, alias: str) -> int | None:
        """The number of the version that the alias names; None only if MLflow answered that it names none."""
        with self._errors():
            try:
                return int(self.client.get_model_version_by_alias(self.name, alias).version)
            except self._exception() as error:
                if error.error_code in NOT_THERE:
                    return None
                raise

    def set_alias(self, alias: str, version: int) -> None:
        """Lets the alias name the version. Raises ConfigError if MLflow does not have the version."""
        with self._errors():
            try:
                self.client.set_registered_model_alias(self.name, alias, str(version))
            except self._exception() as error:
                if error.error_code not in NOT_THERE:
                    raise
                raise ConfigError(
                    f"the alias {alias} of {self.name} points to a version that MLflow has",
                    f"version {version} is gone",
                    f"retrain promote {self.name} --version N --reason WHY, with one that is there",
                ) from error

    @staticmethod
    def _exception() -> Any:
        from mlflow.exceptions import MlflowException

        return MlflowException

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turns errors of MLflow and its database into ours, without their causes, which may quote secrets."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            code = getattr(error, "error_code", None)
            if code in ANSWERED:  # its text is left out: it may quote the request
                raise ConfigError(
                    f"MLflow does what a night of {self.name} asks it",
                    f"it answers {code}",
                    f"look at {self.name} there, then retrain doctor {self.name}",
                ) from None
            raise RegistryUnavailable(
                f"MLflow at {self.uri} must answer",
                self._root_cause(error),
                "start it, or check MLFLOW_TRACKING_URI",
            ) from None  # the causes quote the address with its password

    @staticmethod
    def _root_cause(error: BaseException) -> str:
        """The first line of the innermost exception: MLflow wraps a refused connection in four others."""
        while error.__cause__ or error.__context__:
            error = error.__cause__ or error.__context__ or error
        text = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        return without_passwords(text.splitlines()[0])[:200].rstrip(". ")


def _ledger_run(run: Any) -> str:
    """The identifier by which the ledger names this run: its own, or that of the lost run that it replaces."""
    return str(run.data.tags.get(LEDGER_RUN, run.info.run_id))


def _version(version: Any, store: str | None) -> Version:
    """MLflow's version in our form. `store` is the identifier of our store."""
    run, tags = version.run_id or "", version.tags
    return Version(
        number=int(version.version),
        run_id=tags.get(LEDGER_RUN) or run,
        mlflow_run=run,
        model_digest=tags.get(MODEL_DIGEST, ""),
        age_seconds=time.time() - version.creation_timestamp / 1000,
        ours=bool({TRAINING_KEY, RUN_KEY} & tags.keys()) and tags.get(STORE, store) == store,
    )


def cut(text: str) -> str:
    """The text, cut to what MLflow takes as a tag or a description."""
    return text if len(text) <= LONGEST_TAG else f"{text[: LONGEST_TAG - 1]}…"


def _client(uri: str) -> Any:
    from mlflow import MlflowClient

    _quiet()
    if not uri.startswith("http"):
        from mlflow.store.db import utils

        utils.MAX_RETRY_COUNT = DATABASE_ATTEMPTS
    database = uri.removeprefix("sqlite:///")
    with contextlib.nullcontext() if database == uri else _made_once(Path(database)):
        return MlflowClient(uri, uri)  # mlflow.set_tracking_uri would write the address into the environment


@contextlib.contextmanager
def _made_once(database: Path) -> Iterator[None]:
    """While MLflow makes a new database inside, no other process of ours does: of two that migrate one, one fails.

    The lock lies beside the database until it is made: who finds a database without a lock need not wait.
    """
    database.parent.mkdir(parents=True, exist_ok=True)
    lock = database.with_name(f"{database.name}.lock")
    if database.exists() and not lock.exists():
        yield
        return
    busy = RegistryUnavailable(
        f"MLflow's database is made within {START_SECONDS:.0f} s", f"{database} is still being made", "run it again"
    )
    with held_lock(lock, START_SECONDS, busy):
        yield
    lock.unlink(missing_ok=True)


def _quiet() -> None:
    """Silences MLflow and alembic, which log every error with its traceback before they raise it."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def load_model(folder: Path) -> Any:
    """The model in a local folder, loaded as any MLflow user loads it."""
    import mlflow.pyfunc

    _quiet()
    return mlflow.pyfunc.load_model(str(folder))


def write_pyfunc(
    folder: Path, *, code: Path, data: Path, columns: tuple[Column, ...], output: Output, example: pd.DataFrame,
    libraries: Iterable[str], takes: str, others: Iterable[str] = (),
) -> None:  # fmt: skip
    """Writes an MLflow model into the new folder. `data` is the packaged model; `code` is the folder of its code, whose
    name becomes the loader module. `libraries` are what the model needs where it is served. `takes` says which rows it
    takes, and `others` are columns that may be given instead of some of `columns`.

    The same data and code give the same bytes: MLflow's time and random identifier are replaced by fixed ones.
    """
    import mlflow.pyfunc
    from mlflow.models import Model, ModelSignature

    _quiet()
    identity = digest_value([code.name, *(digest_file(path) for path in sorted(data.rglob("*.*")))])
    mlflow.pyfunc.save_model(
        folder,
        loader_module=code.name,
        data_path=str(data),
        code_paths=[str(code)],
        mlflow_model=Model(model_uuid=identity[:32], utc_time_created="1970-01-01 00:00:00", metadata={"takes": takes}),
        signature=ModelSignature(
            _input_schema([column.name for column in columns], others), _output_schema(output), _parameters()
        ),
        input_example=example,
        # others may be chosen at loading: mlflow.models.evaluate passes no params
        model_config={"answer": ALL, "rows": EITHER},
        pip_requirements=[f"{name}=={metadata.version(name).split('+')[0]}" for name in libraries],
    )


def _input_schema(columns: Iterable[str], others: Iterable[str]) -> Any:
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import AnyType

    # Every column is declared as optional and of any type, so that MLflow checks nothing, and the model's own check
    # decides, which names the column and no value. MLflow's check refuses whole numbers in a column of floats, and
    # nulls in a column of whole numbers. It turns any number, and 05.02.2024, into a time before the model sees them.
    # Where it refuses a value or misses a column, its message quotes whole rows. Others than these it drops.
    anything = AnyType()  # type: ignore[no-untyped-call]
    return Schema([ColSpec(anything, name, required=False) for name in dict.fromkeys((*columns, *others))])


def _parameters() -> Any:
    """What `predict` takes besides rows."""
    from mlflow.types import DataType, ParamSchema, ParamSpec

    words = [ParamSpec(name, DataType.string, None) for name in ("answer", "rows")]
    return ParamSchema([*words, ParamSpec("reasons", DataType.long, USUAL)])


def _output_schema(output: Output) -> Any:
    from mlflow.types import ColSpec, DataType, Schema

    prediction, *shares, broken_rule = answer_names(output.kind, output.classes)
    answer = DataType.double if output.kind == "regression" else DataType.string
    numbers = [ColSpec(DataType.double, name) for name in shares]
    return Schema([ColSpec(answer, prediction), *numbers, ColSpec(DataType.string, broken_rule)])
