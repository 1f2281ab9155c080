"""The README and the pages of docs/ tell the truth: paths and links exist, commands parse, words are the code's."""

import argparse
import ast
import dataclasses
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import MISSING
from datetime import date, timedelta
from pathlib import Path
from runpy import run_path
from types import ModuleType
from typing import Any, get_args

import pytest

import ml
from deployments import cli
from deployments.cli import EPILOG, main, parser
from expectations.suite import FORMS
from ml import (
    BusinessDays,
    Column,
    DatabaseSource,
    EmbeddedNetwork,
    Ensemble,
    FileSource,
    Gate,
    NetworkClassifier,
    NetworkRegressor,
    Retention,
    ScikitLearn,
    SideTable,
    Source,
    TabM,
    Target,
    Trees,
    UseCase,
)
from ml.data.partitions import read_partition
from ml.data.snapshots import take_manifest
from ml.evaluation.decision import ALL_END_WORDS, DATA_REJECTED, END_WORDS
from ml.evaluation.handles import VerdictName
from ml.metrics.intervals import SIMULATED_ERRORS
from ml.metrics.scores import LOWER_IS_BETTER, METRICS
from ml.models.calibration import METHODS
from ml.models.packaging import refuse_broken_example
from ml.models.training import package
from ml.reporting import page
from ml.reporting.decision_section import verdict_list
from ml.reporting.escaping import on_a_page
from ml.reporting.page import markdown
from ml.serving.own_code import OwnCode
from ml.serving.rules import first_broken
from ml.settings import Settings
from ml.use_case.loading import load, load_use_case
from tests import tiny
from tests.reporting import test_report
from tests.story import SHOP, Shop, shop_day

ROOT = Path(__file__).parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "DECISIONS.md", ROOT / "benchmarks" / "README.md", *ROOT.glob("docs/*.md"))
}
GUIDES = {name: text for name, text in PAGES.items() if name == "README.md" or name.startswith("docs/")}
README = PAGES["README.md"]
LINK = re.compile(r"\[[^]]*\]\(([^)#\s]*)(?:#([^)\s]*))?\)")
KEPT_FOLDERS = re.compile(r"`((?:deployments|flows|tasks|expectations|ml|docs|tests|benchmarks)/[\w/.-]*)`")


def section(page: str, heading: str) -> str:
    """The text below a heading of a page, up to the next heading of any level."""
    return GUIDES[page].split(f"# {heading}\n")[1].split("\n#")[0]


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of every table below a heading, without the first row of headers."""
    lines = [line for line in section(page, heading).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if "---" not in line][1:]


def block(page: str, heading: str, language: str) -> str:
    """The first block of a language below a heading of the second level."""
    text = GUIDES[page].split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return text.split(f"```{language}\n")[1].split("```")[0]


def code_below(page: str, heading: str, language: str) -> str:
    """The first block of a language below a heading of any level."""
    return GUIDES[page].split(f"# {heading}\n")[1].split(f"```{language}\n")[1].split("```")[0]


def first_names(page: str, heading: str) -> list[str]:
    """What the first column of a table names, without backticks."""
    return [row[0].strip("`") for row in rows(page, heading)]


def commands() -> list[str]:
    """Every command of every page, in its text or on a line of a block."""
    written = (
        re.findall(r"(?:^(?:\.venv/bin/)?|`)(retrain [a-z][^`#\n]*)", text, re.MULTILINE) for text in GUIDES.values()
    )
    mentions = {f"retrain {name}" for name in ("run", "score", "ledger", "backfill", "promote")}  # without their words
    return sorted({command.strip() for of_page in written for command in of_page} - mentions)


def anchors(text: str) -> set[str]:
    """The fragments that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_a_tour_that_names_every_page() -> None:
    assert len(README.splitlines()) <= 200
    pages = {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")}
    assert pages <= {target for target, _ in LINK.findall(README)}


@pytest.mark.parametrize("page", PAGES)
def test_every_link_is_relative_and_leads_to_a_page_and_a_heading(page: str) -> None:
    for target, fragment in LINK.findall(PAGES[page]):
        linked = ((ROOT / page).parent / target).resolve() if target else ROOT / page
        assert linked.is_relative_to(ROOT), target
        assert linked.exists(), target
        assert not fragment or fragment in anchors(linked.read_text(encoding="utf-8")), (target, fragment)


@pytest.mark.parametrize("page", GUIDES)
def test_every_path_that_a_page_names_exists(page: str) -> None:
    named = set(KEPT_FOLDERS.findall(GUIDES[page])) - {"deployments/.env"}  # which the reader writes
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_path_of_the_table_exists_and_every_folder_and_package_is_in_it() -> None:
    named = {name.rstrip("/") for name in first_names("docs/settings.md", "Where things are")}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
    folders = {path.name for path in ROOT.iterdir() if path.is_dir() and path.name[0] != "."}
    packages = {str(path.parent.relative_to(ROOT)) for path in (ROOT / "ml").rglob("__init__.py")}
    assert (folders | packages) - named - {"nightly_retrain.egg-info"} == set()


@pytest.mark.parametrize("command", commands())
def test_every_command_parses(command: str) -> None:
    words = shlex.split(command)[1:]
    values = {
        "USE_CASE": "flights", "NAME": "flights", "FILE": "rows.parquet", "OUT": "out.csv", "N": "2", "PLAN": "0a1b",
        "D1": "2013-09-20", "D2": "2013-09-30", "DAY": "2013-09-30", "VERSION": "1", "URL": "http://127.0.0.1:9",
    }  # fmt: skip
    assert parser().parse_args([values.get(word, word) for word in words])


def test_every_command_is_in_the_table() -> None:
    (subcommands,) = (action for action in parser()._actions if action.dest == "command")
    told = {
        command.split()[1] for command in re.findall(r"`(retrain [a-z-]+)", section("docs/settings.md", "Commands"))
    }
    assert set(subcommands.choices or ()) == told


def test_every_exit_code_is_in_the_table() -> None:
    assert first_names("docs/settings.md", "Exit codes") == re.findall(r"\b\d+\b", EPILOG)


@pytest.mark.parametrize("page", PAGES)
def test_every_make_target_exists(page: str) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:^|`)make ([a-z-]+)(?=`|\s+#)", PAGES[page], re.MULTILINE)) <= targets


def test_every_state_decision_and_verdict_is_told() -> None:
    told = {decision: word.strip("`") for decision, word, _ in rows("docs/gates.md", "Decisions")}
    assert told == {**END_WORDS, "none: bad data ended the run": DATA_REJECTED}
    assert set(told.values()) == set(ALL_END_WORDS)
    assert set(first_names("docs/gates.md", "Verdicts")) == set(get_args(VerdictName))


def test_every_gate_is_in_the_table_with_its_figure() -> None:
    public = {name: getattr(ml, name) for name in ml.FACE}
    gates = {name: kind for name, kind in public.items() if isinstance(kind, type) and issubclass(kind, Gate)}
    fields = {name: [f for f in dataclasses.fields(kind) if f.init] for name, kind in gates.items()}
    written = {name: [f.name for f in of_kind if f.name != "why"] for name, of_kind in fields.items()}
    del written["Gate"], written["Comparison"]
    told = [re.fullmatch(r"(\w+)\((.*)\)", name) for name in first_names("docs/gates.md", "The gates")]
    assert {gate[1]: [name for name in gate[2].split(", ") if name] for gate in told if gate} == written


def test_every_setting_is_in_the_table() -> None:
    source = (ROOT / "ml" / "settings.py").read_text()
    named = set(first_names("docs/settings.md", "Settings"))
    assert set(re.findall(r'"((?:RETRAIN|MLFLOW)_[A-Z_]+)"', source)) <= named
    assert Settings.from_environment().threads == 1


def test_every_use_case_is_in_the_table() -> None:
    files = {path.stem for path in (ROOT / "ml" / "use_cases").glob("[a-z]*.py")}
    assert set(first_names("README.md", "The examples")) == files


def test_every_expectation_that_a_suite_may_have_is_in_the_table() -> None:
    assert first_names("docs/use-case.md", "Rules that columns cannot express") == list(FORMS)


@pytest.mark.parametrize("kind", [UseCase, BusinessDays, Column, Target, Source, FileSource, DatabaseSource, SideTable])
def test_every_field_of_a_use_case_is_in_its_table_with_its_default(kind: type) -> None:
    stated = {name.strip("`"): default.strip("`") for name, _, default in rows("docs/use-case.md", kind.__name__)}
    fields = {field.name: field.default for field in dataclasses.fields(kind)}
    special = {"required": MISSING, "Retention()": Retention()}
    defaults = {name: special[text] if text in special else ast.literal_eval(text) for name, text in stated.items()}
    assert defaults == fields


def test_every_parameter_of_a_model_is_in_the_table_with_its_default() -> None:
    told = rows("docs/models.md", "Parameters")
    stated = [(name.strip("`"), ast.literal_eval(default.strip("`"))) for name, _, default in told]
    for kind in (NetworkClassifier, NetworkRegressor):
        assert stated == [(each.name, each.default) for each in inspect.signature(kind).parameters.values()]


def test_every_parameter_of_trees_is_in_their_table_with_its_default() -> None:
    told = rows("docs/models.md", "Boosted trees")
    stated = [(name.strip("`"), ast.literal_eval(default.strip("`"))) for name, _, default in told]
    assert stated == [(each.name, each.default) for each in inspect.signature(Trees).parameters.values()]


def test_every_parameter_of_packs_is_in_their_table_with_its_default() -> None:
    told = rows("docs/models.md", "Packs of embedded networks")
    stated = {name.strip("`"): default for name, _, default in told}
    for kind in (EmbeddedNetwork, TabM):
        defaults = {each.name: each.default for each in inspect.signature(kind).parameters.values()}
        both = {name: default.split("; `TabM`: ") for name, default in stated.items() if name in defaults}
        assert {
            name: ast.literal_eval(told[-1 if kind is TabM else 0].strip("`")) for name, told in both.items()
        } == defaults
    assert set(stated) == set(inspect.signature(EmbeddedNetwork).parameters)


def test_the_models_of_the_page_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "models.py").write_text(block("docs/models.md", "What there is", "python"))
    made = run_path(str(tmp_path / "models.py"))
    assert (made["small"].hidden, made["line"].hidden) == ((32, 16), ())
    assert made["trees"].options == {"max_depth": 6}


def test_the_ensembles_of_the_page_can_be_made(tmp_path: Path) -> None:
    for heading, names in (("Ensembles", ("pair", "weighed")), ("Auto", ("anything",))):
        (tmp_path / "models.py").write_text(code_below("docs/models.md", heading, "python"))
        made = run_path(str(tmp_path / "models.py"))
        assert all(tiny.parcels(model=made[name]).digest for name in names)
    told = rows("docs/models.md", "Ensembles")
    stated = {name.strip("`"): default.strip("`") for name, _, default in told}
    parameters = inspect.signature(Ensemble).parameters.values()
    assert stated == {
        each.name: "required" if each.default is each.empty else f'"{each.default}"' for each in parameters
    }


def test_every_parameter_of_the_wrapper_is_in_its_table_with_its_default() -> None:
    told = rows("docs/models.md", "Any scikit-learn estimator")
    named = {name.strip("`"): default.strip("`") for name, _, default in told}
    parameters = inspect.signature(ScikitLearn).parameters.values()
    defaults = {each.name: each.default for each in parameters}
    assert named.pop("estimator") == "required"
    assert defaults.pop("estimator") is inspect.Parameter.empty
    assert {name: ast.literal_eval(default) for name, default in named.items()} == defaults


def test_the_estimators_of_the_page_learn(tmp_path: Path) -> None:
    exec(code_below("docs/models.md", "Any scikit-learn estimator", "python"), names := dict[str, Any]())
    for name in ("forest", "pipeline"):
        _, model = tiny.learnt("binary", tmp_path / name, model=names[name])
        assert model.predict(tiny.raw_parcels(20))["probability"].notna().all()


def test_what_a_threshold_serves_on_the_page_fits_a_use_case() -> None:
    exec(code_below("docs/models.md", "The threshold, and what errors cost", "python"), names := dict[str, Any]())
    for name in ("by_another_metric", "by_cost", "by_precision", "by_recall"):
        _, model = tiny.learnt("binary", threshold=names[name])
        assert model.output.decides.startswith("Threshold ")
    _, model = tiny.learnt("multiclass", threshold=names["of_three_classes"])
    assert model.output.costs == names["of_three_classes"].costs


def test_every_calibration_is_in_the_table() -> None:
    assert first_names("docs/models.md", "Probabilities")[: len(METHODS) + 1] == ["none", *METHODS]


def test_the_kind_of_model_of_the_page_is_fitted_travels_and_answers(tmp_path: Path) -> None:
    text = GUIDES["docs/models.md"].split("## A kind of your own\n")[1].split("\n## ")[0]
    learner, kind = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    shop = re.sub(r"model=.*\n", "model=ShareOfTrain(),\n", SHOP.replace("    logistic_regression,\n", ""))
    shop = shop.replace("USE_CASE = ", "from my_learner import ShareOfTrain\nUSE_CASE = ")
    for name, source in (("use_cases/shop", shop), ("my_learner", learner), ("my_kind", kind)):
        (tmp_path / f"{name}.py").parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.py").write_text(source)
    loaded = load("shop", tmp_path)
    rows = tiny.cleaned(loaded.use_case, shop_day(date(2024, 1, 1)))
    loaded.use_case.model.fit_rows(tiny.job(loaded.use_case, tmp_path / "fitted", rows, rows))
    model = package(
        loaded.use_case, (), tmp_path / "fitted", 1, rows, OwnCode(loaded.serving.modules, loaded.serving.packages)
    )
    assert model.answers(rows)["probability"].tolist() == pytest.approx([rows["label__"].mean()] * len(rows), abs=0.02)


def test_the_usual_gates_of_the_page_can_be_made(tmp_path: Path) -> None:
    (tmp_path / "usual.py").write_text(f"from ml import *\n{block('docs/use-case.md', 'Gates', 'python')}")
    gates = run_path(str(tmp_path / "usual.py"))["gates"]
    assert all(isinstance(gate, Gate) and gate.why for gate in gates)


def test_gates_on_probabilities_as_the_page_has_them_fit_a_use_case() -> None:
    exec("from ml import *\n" + block("docs/use-case.md", "Gates", "py"), names := dict[str, Any]())
    use_case = tiny.tills(metric=names["metric"], gates=names["gates"])
    assert [gate.metric for gate in use_case.gates] == ["f1", "log_loss", "log_loss", "f1"]


def test_every_metric_is_in_the_table_with_its_direction() -> None:
    told = {
        (name, better == "yes")
        for _, names, better in rows("docs/gates.md", "Metrics")
        for name in re.findall(r"`(\w+)`", names)
    }
    every = {name for names in METRICS.values() for name in names}
    assert told == {(name, name not in LOWER_IS_BETTER) for name in every}


def test_reports_tell_the_simulated_errors_of_the_page() -> None:
    """The lowest and the highest mean over metrics, of 20 to 90 days."""
    simulated = re.findall(r"^\| (?:20|28|56|90) \| (.*) \|$", GUIDES["docs/gates.md"], re.MULTILINE)
    errors = [float(cell) for row in simulated for cell in row.split(" | ")]
    assert len(simulated) == 4
    assert (round(min(errors)) / 100, round(max(errors)) / 100) == SIMULATED_ERRORS
    low, high = (round(100 * error) for error in SIMULATED_ERRORS)
    assert f"errors: 5 % by design, {low} to {high} % in the simulation" in " ".join(GUIDES["docs/gates.md"].split())


@pytest.fixture
def shop_with_gates_of_the_page(shop: Shop) -> Shop:
    """The tests' shop, whose use case takes the gates that the page shows from a module of its project."""
    assert shop.settings.project is not None
    (shop.settings.project / "gates.py").write_text(block("docs/gates.md", "A gate of your own", "python"))
    usage = block("docs/gates.md", "A gate of your own", "py")
    imports, gates = usage.split("\n\n", 1)
    file = shop.settings.project / "use_cases" / "shop.py"
    own = re.sub(r"    gates=\(\n.*?\n    \),\n", lambda _: gates, file.read_text(), flags=re.DOTALL)
    file.write_text(f"{imports}\n{own}")
    return shop


@pytest.mark.slow
def test_the_gates_of_the_page_judge_a_whole_night(
    shop_with_gates_of_the_page: Shop, prefect: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Their sentences are on the terminal and in the report, and what they say decides."""
    shop = shop_with_gates_of_the_page
    monkeypatch.setenv("PREFECT_API_URL", prefect)
    assert main(["run", "shop", "--as-of", "2024-03-15"]) == 0
    terminal = capsys.readouterr().out
    assert main(["run", "shop", "--as-of", "2024-03-16"]) == 0
    first, second = (entry.result for entry in shop.entries())
    for document, shown in ((first, terminal), (second, capsys.readouterr().out)):
        floor, comparison = document["verdicts"]
        assert floor["verdict"] == "PASS"
        assert floor["reason"].endswith("; the lower end must reach 0.5 (under this we lose money)")
        assert (floor["figures"]["floor"], comparison["gate"]) == (0.5, "AtLeastAsGood recall")
        assert floor["reason"] in shown and comparison["reason"] in shown
        assert {*verdict_list(on_a_page(document))} <= {*markdown(document).splitlines()}
    assert (first["decision"], first["verdicts"][1]["verdict"]) == ("FIRST", "NOT_APPLICABLE")
    allowed = second["verdicts"][1]["figures"]["difference"] >= 0
    assert second["verdicts"][1]["verdict"] == ("PASS" if allowed else "FAIL")
    assert second["decision"] == ("PROMOTE" if allowed else "KEEP")


def test_the_section_of_the_page_is_one_of_a_report(monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"Section": page.Section}
    exec(block("docs/adding.md", "A section of the report", "python"), names)
    section = eval(block("docs/adding.md", "A section of the report", "py"), names)
    monkeypatch.setattr(page, "SECTIONS", (*page.SECTIONS, section))
    fields = test_report.document()
    stage, *_ = fields["seconds"]
    none = dict.fromkeys(fields["seconds"], 0)
    assert markdown({**fields, "reused": {**none, stage: 1200}}).endswith(f"## Reused\n\n- {stage}: 1,200 reused\n")
    assert "## Reused" not in markdown({**fields, "reused": none})


def test_the_command_of_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ModuleType("deployments.commands.home")
    exec(block("docs/adding.md", "A command", "python"), vars(command))
    exec(block("docs/adding.md", "A command", "py"), names := dict(vars(cli)))
    monkeypatch.setitem(sys.modules, "deployments.commands.home", command)
    top = cli.Parser()
    names["_add_home"](top.add_subparsers(dest="command"), cli.Parser(add_help=False))
    monkeypatch.setenv("RETRAIN_HOME", str(tmp_path))
    (tmp_path / "store").mkdir()
    options = argparse.Namespace(json=False, **vars(top.parse_args(["home"])))
    assert cli._command("home")(options) == 0
    assert capsys.readouterr().out == f"{tmp_path}\n"


@pytest.mark.parametrize(("old", "new"), rows("docs/upgrading.md", "Imports that moved"))
def test_an_import_that_moved_is_one_from_the_public_face(old: str, new: str) -> None:
    (before,), (after,) = ast.parse(old.strip("`")).body, ast.parse(new.strip("`")).body
    assert isinstance(before, ast.ImportFrom)
    assert isinstance(after, ast.ImportFrom)
    assert after.module == "ml"
    names = [name.name for name in after.names]
    assert names == [name.name for name in before.names]
    assert [name for name in names if not hasattr(ml, name)] == []


def project(folder: Path, name: str, page: str, heading: str) -> Settings:
    """A project and a home of their own, where the use case of a page is."""
    (folder / "use_cases").mkdir()
    (folder / "use_cases" / f"{name}.py").write_text(block(page, heading, "python"))
    return dataclasses.replace(Settings.from_environment(), home=folder, project=folder)


@pytest.fixture
def second_order(tmp_path: Path) -> Settings:
    """The example of the README, with its CSV continued to 2,000 rows."""
    header, *first = block("README.md", "Your own CSV", "csv").split()
    more = (f"{n},{n % 90}.50,{('DE', 'FR', '')[n % 3]},{'yes' if n % 90 > 50 else 'no'}" for n in range(3, 2001))
    (tmp_path / "data" / "second_order").mkdir(parents=True)
    (tmp_path / "data" / "second_order" / "all.csv").write_text("\n".join([header, *first, *more, ""]))
    return project(tmp_path, "second_order", "README.md", "Your own CSV")


@pytest.fixture
def late_delivery(tmp_path: Path) -> Settings:
    """The dated example, with its CSV continued by 40 parcels a day up to 2024-06-08."""
    header, *first = block("docs/use-case.md", "Data with dates", "csv").split()
    sent = (date(2024, 3, 1) + timedelta(days=n // 40) for n in range(4000))
    more = (
        f"{n},{day}T{n % 24:02}:00:00,{n % 37}.5,{('north', 'south', '')[n % 3]},{1 + n % 37 // 8}"
        for n, day in enumerate(sent, start=3)
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "deliveries.csv").write_text("\n".join([header, *first, *more, ""]))
    return project(tmp_path, "late_delivery", "docs/use-case.md", "Data with dates")


def test_the_example_is_loaded_and_its_rows_obey_it(second_order: Settings) -> None:
    use_case = load_use_case("second_order", second_order.project)
    manifest, missing = take_manifest(second_order, use_case, date(2024, 1, 1), {})
    read = read_partition(second_order, use_case, manifest, "all")
    table, unknown = read.rows, read.unknown_columns
    assert (len(table), missing, unknown) == (2000, (), ())
    assert first_broken(use_case.column_rules, table).isna().all()
    refuse_broken_example(use_case, use_case.column_rules)


def test_the_dated_example_is_loaded_and_its_rows_obey_it(late_delivery: Settings) -> None:
    use_case = load_use_case("late_delivery", late_delivery.project)
    manifest, missing = take_manifest(late_delivery, use_case, date(2024, 6, 13), {})
    assert (manifest.size, missing) == (100, ())
    table = read_partition(late_delivery, use_case, manifest, "2024-03-01").rows
    assert len(table) == 42
    assert first_broken(use_case.column_rules, table).isna().all()
    refuse_broken_example(use_case, use_case.column_rules)


def first_night(settings: Settings, *words: str) -> dict[str, Any]:
    environment = {**os.environ, "RETRAIN_HOME": str(settings.home), "RETRAIN_PROJECT": str(settings.project)}
    command = [str(Path(sys.executable).parent / "retrain"), "run", *words, "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.slow
def test_the_example_has_a_champion_after_its_first_night(second_order: Settings) -> None:
    assert first_night(second_order, "second_order")["decision"] == "FIRST"


@pytest.mark.slow
def test_the_dated_example_has_a_champion_after_its_first_night(late_delivery: Settings) -> None:
    assert first_night(late_delivery, "late_delivery", "--as-of", "2024-06-13")["decision"] == "FIRST"
