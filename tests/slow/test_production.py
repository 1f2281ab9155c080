"""The production files: they agree with the code and each other, and what they start runs nights on PostgreSQL.

No container engine is needed: every service of compose.yaml is started from its own line, as a process on loopback.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.cli import main
from deployments.prefect import alerts
from deployments.prefect.announcement import running_servers
from deployments.prefect.client import answers, ask
from deployments.prefect.held import ENDED
from deployments.prefect.serve import deployments
from ml.errors import RegistryUnavailable, StoreUnavailable
from ml.operations.backfill import read_attempts
from ml.settings import Settings
from ml.storage.registry import CHAMPION, Registry
from ml.storage.store import open_store
from tests.deployments.test_alerts import told  # noqa: F401 - a fixture
from tests.deployments.test_schedules import wait_for
from tests.deployments.test_servers import descendants
from tests.postgres_server import PASSWORD, PostgresServer
from tests.s3_server import FOREIGN, IDENTITY, SERVICES, WATCHED, free_ports
from tests.slow.test_matrix import retrain
from tests.story import Shop, open_shop
from tests.tally import tally

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deployments"
COMPOSE = (FOLDER / "compose.yaml").read_text(encoding="utf-8")
SECRETS = dict.fromkeys(re.findall(r"\$\{(\w+):\?\}", COMPOSE), PASSWORD)
START_SECONDS = 90.0
RUN_SECONDS = 240.0


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """As compose does it: `${NAME:?}` must be given, `${NAME:-default}` need not."""

    def value(found: re.Match[str]) -> str:
        return variables[found[1]] if found[2] == "?" else variables.get(found[1], found[3])

    return re.sub(r"\$\{(\w+):(-|\?)([^}]*)\}", value, text)


def composed(text: str = COMPOSE) -> dict[str, dict[str, dict[str, Any]]]:
    found: dict[str, dict[str, dict[str, Any]]] = yaml.safe_load(interpolated(text, SECRETS))
    return found


def test_prefect_yaml_deploys_what_up_serves(settings: Settings) -> None:
    document = yaml.safe_load((FOLDER / "prefect.yaml").read_text(encoding="utf-8"))
    *nights, backfill = document["deployments"]
    assert [night["name"] for night in nights] == [each.name for each in deployments(settings)]
    for night, served in zip(nights, deployments(settings), strict=True):
        assert (night["parameters"], night["tags"]) == (served.parameters, served.tags)
        schedules = [(each.schedule.cron, each.schedule.timezone) for each in served.schedules or []]
        assert [(each["cron"], each["timezone"]) for each in night.get("schedules", [])] == schedules
        assert (night["entrypoint"], night["work_pool"]["work_queue_name"]) == ("flows.retrain.retrain", "nightly")
    assert (backfill["name"], backfill["work_pool"]["work_queue_name"]) == ("backfill", "backfill")


def test_what_the_dockerfile_copies_exists_and_is_all_that_is_installed() -> None:
    lines = (FOLDER / "Dockerfile").read_text(encoding="utf-8").splitlines()
    copied = {source for line in lines if line.startswith("COPY ") for source in line.split()[1:-1]}
    assert [source for source in sorted(copied) if not (ROOT / source).exists()] == []
    import tomllib

    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"][
        "find"
    ]
    assert {pattern.rstrip("*") for pattern in packages["include"]} <= copied
    assert 'ENTRYPOINT ["python", "-m", "deployments.environment"]' in lines


def test_compose_files_volumes_ports_and_services_agree() -> None:
    document = yaml.safe_load(COMPOSE)
    for name, service in document["services"].items():
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(document["volumes"]), name
        assert set(service.get("depends_on", {})) <= set(document["services"]), name
        for port in service.get("ports", []):
            address, outside, inside = port.split(":")
            assert (address, outside) == ("127.0.0.1", inside)
            assert f"--port {inside}" in service["command"]
    listening = {"s3": "-s3.port=8333", "prefect": "--port 4200", "mlflow": "--port 5000"}
    hosts = dict(re.findall(r"(?:http://|@)([a-z0-9]+):(\d+)", COMPOSE))
    assert set(hosts) - {"localhost"} == {*listening, "postgres"}
    assert [name for name, option in listening.items() if not option.endswith(hosts[name])] == []


def test_every_variable_of_compose_is_one_that_its_software_reads() -> None:
    import mlflow.cli
    import mlflow.environment_variables
    import prefect.settings

    named = {name for service in composed()["services"].values() for name in service.get("environment", {})}
    options = {option.envvar for option in mlflow.cli.server.params}
    source = (ROOT / "ml" / "settings.py").read_text(encoding="utf-8")
    known: dict[str, Callable[[str], bool]] = {
        "PREFECT": lambda name: hasattr(prefect.settings, name),
        "MLFLOW": lambda name: hasattr(mlflow.environment_variables, name) or name in options,
        "RETRAIN": lambda name: f'"{name}"' in source,
        "AWS": lambda name: name in {*IDENTITY, "AWS_ENDPOINT_URL_S3"},
        "POSTGRES": lambda name: name in {"POSTGRES_USER", "POSTGRES_PASSWORD", "POSTGRES_DB"},
    }
    assert [name for name in sorted(named) if not known[name.split("_")[0]](name)] == []
    assert not hasattr(prefect.settings, "PREFECT_SERVER_NO_SUCH")


@dataclass
class Production:
    """The services of compose.yaml on loopback, each with a folder of its own for its volume."""

    services: dict[str, dict[str, Any]]
    configs: dict[str, dict[str, str]]
    folder: Path
    started: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    def home(self, name: str) -> Path:
        return self.folder / name

    def start(self, name: str, *more: str) -> "subprocess.Popen[bytes]":
        """The service's own line, by the entry point of the image."""
        home = self.home(name)
        home.mkdir(exist_ok=True)
        command = self.services[name]["command"].replace("/srv/nightly-retrain", str(ROOT))
        command = command.replace("/home/retrain", str(home))
        entry = [sys.executable, "-m", "deployments.environment", *shlex.split(command), *more]
        with (self.folder / f"{name}.log").open("ab") as log:
            self.started[name] = subprocess.Popen(
                ["sh", "-c", WATCHED, str(os.getpid()), *entry],
                env=self.variables(name), cwd=home, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        return self.started[name]

    def variables(self, name: str) -> dict[str, str]:
        """What a container would have, and what a process needs to be found here."""
        ours = ("RETRAIN_", "PREFECT_", "MLFLOW_", "AWS_")
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(ours)}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        project = {key: os.environ[key] for key in ("RETRAIN_PROJECT",) if key in os.environ}
        own = dict(self.services[name]["environment"])
        if config := own.get("MLFLOW_AUTH_CONFIG_PATH"):
            file = self.folder / Path(config).name
            file.write_text(self.configs[file.stem]["content"])
            own["MLFLOW_AUTH_CONFIG_PATH"] = str(file)
        return {**inherited, "PATH": path, "RETRAIN_HOME": str(self.home(name)), **project, **own}

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")[-5000:]


def on_loopback(postgres: PostgresServer) -> str:
    """compose.yaml with the addresses of this machine in the places of its services'."""
    text = COMPOSE.replace("0.0.0.0", "127.0.0.1").replace("@postgres:5432", f"@127.0.0.1:{postgres.port}")
    for name, port, free in zip(("s3", "prefect", "mlflow"), ("8333", "4200", "5000"), free_ports(3), strict=True):
        text = re.sub(rf"(//|hosts |-ip=){name}\b", r"\g<1>127.0.0.1", text).replace(port, str(free))
    return text


def crash(process: "subprocess.Popen[bytes]") -> None:
    """Kills it and all that it started, as a loss of power does: a worker's runs are in sessions of their own."""
    found: set[int] = set()
    while new := {process.pid, *descendants(process.pid)} - found:
        _signal(new, signal.SIGSTOP)  # or it would start another meanwhile
        found |= new
    _signal(found, signal.SIGKILL)
    process.wait()


def _signal(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


@pytest.fixture
def production(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Production, Shop]]:
    """Everything that compose.yaml starts, and a shop in the worker's home; this process sees it as the worker does."""
    shop = open_shop(tmp_path, monkeypatch)
    shutil.move(shop.settings.home, tmp_path / "worker")
    document = composed(on_loopback(postgres))
    own = Production(document["services"], document["configs"], tmp_path)
    postgres.create(own.services["postgres"]["environment"]["POSTGRES_DB"])
    postgres.execute(own.configs["mlflow-database"]["content"])
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    for name, value in own.services["worker"]["environment"].items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RETRAIN_HOME", str(own.home("worker")))
    others = [f"{service}.{kind}" for service in SERVICES for kind in ("port", "port.grpc")]
    ports = zip([other for other in others if other != "s3.port"], free_ports(9), strict=True)
    settings = Settings.from_environment()
    try:
        own.start("s3", *(f"-{name}={port}" for name, port in ports))
        own.start("prefect")
        own.start("mlflow")
        for ready in (
            lambda: answers(f"{os.environ['PREFECT_API_URL']}/health"),
            lambda: answers(f"{settings.tracking_uri}/health"),
            lambda: writable(settings),
        ):
            assert wait_for(ready, START_SECONDS), "\n".join(map(own.log, ("s3", "prefect", "mlflow")))
        command = own.services["prefect"]["healthcheck"]["test"][1:]
        assert subprocess.run(command, check=False, env=own.variables("prefect")).returncode == 0
        prefect_yaml = (FOLDER / "prefect.yaml").read_text(encoding="utf-8")
        mine = tmp_path / "prefect.yaml"
        mine.write_text(prefect_yaml.replace("flights", "shop").replace("America/New_York", "UTC"))
        assert own.start("deploy", str(mine)).wait(180) == 0, own.log("deploy")
        own.start("worker")
        yield own, replace(shop, settings=settings)
    finally:
        for process in reversed(own.started.values()):
            crash(process)
        for database in (own.services["postgres"]["environment"]["POSTGRES_DB"], "mlflow"):
            postgres.execute(f'drop database if exists "{database}" with (force)')


def writable(settings: Settings) -> bool:
    try:
        open_store(settings.store).put("ready", b"yes")
    except StoreUnavailable:
        return False
    return True


def asked(what: str, query: Any = None) -> Any:
    return ask(f"{os.environ['PREFECT_API_URL']}/{what}", query)


def submitted(name: str, request: dict[str, Any]) -> str:
    """Submits a run as its page does; its id."""
    from prefect.deployments import run_deployment

    run: Any = run_deployment(name, parameters={"request": request}, timeout=0, as_subflow=False)
    return str(run.id)


def ended_state(run: str) -> Any:
    return wait_for(lambda: (state := asked(f"flow_runs/{run}")["state"])["type"] in ENDED and state, RUN_SECONDS)


def kill_holder(lock: Path) -> None:
    """Kills the process that has a use case's lock open, as soon as there is one."""
    found = wait_for(lambda: [fd for fd in Path("/proc").glob("[0-9]*/fd/*") if is_link_to(fd, lock)], RUN_SECONDS)
    os.kill(int(found[0].parts[2]), signal.SIGKILL)


def is_link_to(descriptor: Path, path: Path) -> bool:
    try:
        return descriptor.readlink() == path
    except OSError:  # it has been closed
        return False


@pytest.mark.slow
def test_nights_a_backfill_and_alerts_on_postgres_by_a_worker(
    production: tuple[Production, Shop],
    told: tuple[str, list[dict[str, Any]]],  # noqa: F811
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three minutes on a quiet machine."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    own, shop = production
    url, documents = told
    api, password = os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"]
    queues = {queue["name"]: queue["priority"] for queue in asked("work_queues/filter", {})}
    assert queues["nightly"] < queues["backfill"]
    assert main(["alerts", url]) == 0
    with temporary_settings({PREFECT_API_URL: api, PREFECT_API_AUTH_STRING: password}):
        night = submitted("retrain/shop", {"use_case": "shop", "as_of": "2024-03-15"})
        kill_holder(own.home("worker") / "locks" / "shop.lock")
        wait_for(lambda: asked(f"flow_runs/{night}")["run_count"] == 2, RUN_SECONDS)
        assert ended_state(night)["message"].startswith("Promoted: "), own.log("worker")
        messages = [state["message"] for state in asked(f"flow_run_states/?flow_run_id={night}")]
        assert "Attempt 2 of 3 after a crash." in messages
        request = {"use_case": "shop", "first": "2024-03-12", "last": "2024-03-14", "max_active": 2}
        backfill = submitted("backfill/backfill", request)
        assert ended_state(backfill)["message"] == "3 of 3 dates are done, 0 failed.", own.log("worker")
        shop.file("2024-03-16").write_bytes(b"not parquet")
        rejected = submitted("retrain/shop", {"use_case": "shop", "as_of": "2024-03-17"})
        assert ended_state(rejected)["message"].startswith("DataRejected: ")
    assert {str(entry.as_of): entry.decision for entry in shop.entries()} == {
        "2024-03-15": "FIRST", "2024-03-12": "KEEP", "2024-03-13": "KEEP", "2024-03-14": "KEEP",
    }  # fmt: skip
    registry = Registry(shop.settings, "shop")
    assert (len(registry.versions()), registry.alias(CHAMPION)) == (4, 1)
    wait_for(lambda: len(documents) >= 3, 30)
    assert {each["alert"] for each in documents} == {alerts.CRASHED, alerts.RECOVERED, alerts.REJECTED}, documents

    # For a Docker work pool: there as asked for, though no worker is here to work for it.
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    command = ["sh", FOLDER / "deploy.sh", "docker", own.folder / "prefect.yaml"]
    variables = {**os.environ, "PATH": own.variables("deploy")["PATH"]}
    subprocess.run(command, env=variables, check=True, cwd=own.folder, capture_output=True)
    deployed = asked("deployments/name/retrain/shop")
    assert (deployed["work_pool_name"], deployed["work_queue_name"]) == ("docker", "nightly")
    assert deployed["job_variables"]["image"] == "nightly-retrain"
    names = ("RETRAIN_STORE", "MLFLOW_TRACKING_URI", "AWS_ENDPOINT_URL_S3")
    assert deployed["job_variables"]["env"] == {name: os.environ.get(name, "") for name in names}

    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", own.services["worker"]["environment"]["AWS_ENDPOINT_URL_S3"])

    # `retrain run` in the same home follows the worker's run, and in another one runs here and is shown there.
    capsys.readouterr()
    assert main(["run", "shop", "--as-of", "2024-03-15", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["replayed"]
    elsewhere = own.folder / "elsewhere"
    shutil.copytree(own.home("worker") / "data", elsewhere / "data")
    monkeypatch.setenv("RETRAIN_HOME", str(elsewhere))
    done = retrain(["run", "shop", "--as-of", "2024-03-16", "--json"], dict(os.environ))
    assert (done.returncode, json.loads(done.stdout)["version"]) == (0, 5), done.stderr
    shown = asked("flow_runs/filter", {"flow_runs": {"name": {"like_": "shop 2024-03-16"}}})
    assert [(run["deployment_id"], run["state_type"]) for run in shown] == [(None, "COMPLETED")]

    # Without the passwords neither server tells anything.
    monkeypatch.delenv("PREFECT_API_AUTH_STRING")
    assert asked("work_queues/filter", {}) is None
    monkeypatch.delenv("MLFLOW_TRACKING_PASSWORD")
    with pytest.raises(RegistryUnavailable, match="401"):
        Registry(shop.settings, "shop").versions()


def resuming(own: Production, plan: str) -> "subprocess.Popen[str]":
    """`retrain backfill resume` as an operator types it in the worker's container."""
    command = [sys.executable, "-m", "deployments.cli", "backfill", "resume", plan, "--max-active", "2", "--json"]
    pipes: Any = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=dict(os.environ), cwd=own.home("worker"), text=True, **pipes)


def told_by(command: "subprocess.Popen[str]") -> tuple[int, dict[str, Any]]:
    out, err = command.communicate(timeout=RUN_SECONDS)
    assert out, err[-3000:]
    return command.returncode, json.loads(out)


def recorded(shop: Shop, number: int) -> None:
    """Returns when so many dates stand in the ledger."""
    assert wait_for(lambda: len(shop.entries()) >= number, RUN_SECONDS), shop.entries()


def restart_worker(own: Production, shop: Shop) -> None:
    own.start("worker")
    assert wait_for(lambda: running_servers(shop.settings), START_SECONDS), own.log("worker")


@pytest.mark.slow
def test_a_backfill_ends_every_date_once_though_its_worker_is_killed(production: tuple[Production, Shop]) -> None:
    """With all that it started, twice, and its run alone in between; the next command takes it up. Four minutes."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    own, shop = production
    api, password = os.environ["PREFECT_API_URL"], os.environ["PREFECT_API_AUTH_STRING"]
    request = {"use_case": "shop", "first": "2024-03-08", "last": "2024-03-16", "max_active": 2}
    with temporary_settings({PREFECT_API_URL: api, PREFECT_API_AUTH_STRING: password}):
        asked_for = submitted("backfill/backfill", request)
    recorded(shop, 2)
    crash(own.started["worker"])
    before, store = shop.entries(), open_store(shop.settings.store)
    (plan,) = (key.split("/")[1] for key in store.keys("backfills") if key.endswith("/plan.json"))
    assert asked(f"flow_runs/{asked_for}")["state_type"] == "RUNNING", "nobody was left to say otherwise"

    restart_worker(own, shop)
    follower = resuming(own, plan)
    recorded(shop, len(before) + 1)
    kill_holder(own.home("worker") / "locks" / "shop.backfill.lock")
    code, said = told_by(follower)
    assert (code, said["next_step"]) == (1, f"read its log, then retrain backfill resume {plan[:12]}"), said

    follower = resuming(own, plan)
    recorded(shop, len(shop.entries()) + 1)
    crash(own.started["worker"])
    code, said = told_by(follower)
    assert (code, said["next_step"]) == (1, "start it and this command again"), said
    assert len(shop.entries()) < 9, "or nothing would be left to resume"

    restart_worker(own, shop)
    code, done = told_by(resuming(own, plan))
    assert (code, done["state"], done["done"]) == (0, "finished", 9), done
    running = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    assert wait_for(lambda: asked("flow_runs/count", running) == 0, RUN_SECONDS)
    assert "Attempt" not in str(asked(f"flow_run_states/?flow_run_id={asked_for}")), "its operator resumes it"

    entries, registry = shop.entries(), Registry(shop.settings, "shop")
    versions = len(registry.versions())
    tally(
        "SIGKILL of a backfill's worker with all that it started, or of its run", "the same, on PostgreSQL and S3",
        wanted=9, entries=len(entries), versions=versions, times=3,
    )  # fmt: skip
    assert entries[: len(before)] == before
    assert sorted(entry.as_of for entry in entries) == [date(2024, 3, 8) + timedelta(days=n) for n in range(9)]
    assert (versions, registry.alias(CHAMPION)) == (9, None)
    ends = Counter(attempt.as_of for attempt in read_attempts(store, "shop") if attempt.outcome is not None)
    assert set(ends.values()) == {1}, "a date that is done is not started again"
