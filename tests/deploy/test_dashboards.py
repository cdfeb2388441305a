"""The dashboards: current, as Grafana 11 reads them, without overlap, and they fit the metrics and each other."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.overview import IN_TIME_S, OBJECTIVE_IN_TIME, OBJECTIVE_SUCCESS
from deploy.grafana.write import DASHBOARDS, made
from service.settings import default_text
from tests.deploy.declared import RECORDED, find_faults

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/grafana"
FILES = {path.stem: path for path in sorted((FOLDER / "dashboards").glob("*.json"))}
READ = {name: json.loads(path.read_text()) for name, path in FILES.items()}
POLICY = ROOT / "build/tools/policy/bin/python"
COLUMNS = 24
LARGEST_BYTES = 262_144  # of the annotation in which `kubectl apply` keeps a ConfigMap
GRAFANAS_OWN = {"__rate_interval", "__interval", "__range", "__url_time_range", "__field", "__value"}

each = pytest.mark.parametrize("name", FILES)
read_by_grafana = pytest.mark.skipif(
    not any((ROOT / "build/tools/policy").rglob("grafana_foundation_sdk")), reason="`make tools` fetches the schema"
)


def panels(name: str) -> Iterator[dict[str, Any]]:
    """All but the headings."""
    yield from (panel for panel in READ[name]["panels"] if panel["type"] != "row")


def expressions(name: str) -> Iterator[tuple[str, str]]:
    for panel in panels(name):
        yield from ((panel["title"], target["expr"]) for target in panel["targets"])
    for variable in READ[name]["templating"]["list"]:
        if variable["type"] == "query":
            matched = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
            assert matched is not None, variable["name"]
            yield variable["name"], f"count by ({matched[2]}) ({matched[1]})"
    yield from ((found["name"], found["expr"]) for found in READ[name]["annotations"]["list"] if "expr" in found)


def test_the_files_are_as_the_program_writes_them() -> None:
    for path, content in made():
        assert path.read_text() == content, f"{path} is not current: run `make dashboards`"
    assert set(FILES) == {dashboard.name for dashboard in DASHBOARDS}


def read_as_grafana(*paths: Path) -> list[str]:
    command = [POLICY, ROOT / "tests/deploy/grafana_schema.py", *paths]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr == ""
    return done.stdout.split("\n")[:-1] if done.stdout.strip() else []


@read_by_grafana
def test_grafana_knows_every_word() -> None:
    assert read_as_grafana(*FILES.values()) == []


@read_by_grafana
def test_words_that_grafana_does_not_know_are_found(tmp_path: Path) -> None:
    broken = copy.deepcopy(READ["overview"])
    panel = broken["panels"][1]
    panel["options"]["colourMode"] = panel["options"].pop("colorMode")
    panel["gridPos"]["width"] = 4
    panel["fieldConfig"]["defaults"]["unit"] = "requests"
    broken["refesh"] = "5s"
    lines = next(panel for panel in broken["panels"] if panel["type"] == "timeseries")
    lines["fieldConfig"]["defaults"]["custom"]["showPoints"] = "rarely"
    lines["options"]["legend"]["placement"] = "below"
    path = tmp_path / "broken.json"
    path.write_text(json.dumps(broken))
    found = "\n".join(read_as_grafana(path))
    assert all(word in found for word in ("colourMode", "width", "'requests'", "refesh", "'rarely'", "'below'"))


@each
def test_nothing_overlaps_and_nothing_is_left_open(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in READ[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS, panel["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert (x, y) not in taken, f"{panel['title']} lies on {taken[x, y]}"
                taken[x, y] = panel["title"]
    height = max(y for _, y in taken) + 1
    assert len(taken) == COLUMNS * height, "the lines are full, or there are holes"
    assert height < 80, "readable at a glance"
    numbers = [panel["id"] for panel in READ[name]["panels"]]
    assert len(set(numbers)) == len(numbers)


@each
def test_every_panel_says_what_it_is(name: str) -> None:
    for panel in panels(name):
        assert panel["title"], panel
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == "${datasource}"
        if panel["type"] != "table":
            field, options = panel["fieldConfig"]["defaults"], panel["options"]
            named = panel["type"] in ("stat", "state-timeline")
            assert field.get("unit") or options.get("yAxis", {}).get("unit") or named, panel["title"]
        for target in panel["targets"]:
            if panel["type"] in ("timeseries", "bargauge", "state-timeline", "heatmap"):
                assert target["legendFormat"] != "__auto", panel["title"]
        steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])
        values = [step["value"] for step in steps]
        assert values[:1] in ([], [None]), panel["title"]
        assert values[1:] == sorted(values[1:]), panel["title"]
    titles = [(panel["type"], panel["title"]) for panel in panels(name)]
    assert len(set(titles)) == len(titles)


@each
def test_legends_are_made_of_labels_that_are_there(name: str) -> None:
    for panel in panels(name):
        for target in panel["targets"]:
            for label in re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]):
                grouped = re.findall(r"by \(([^)]*)\)", target["expr"])
                is_whole = not re.search(r"\b(sum|max|min|avg|count|histogram_quantile)\b", target["expr"])
                assert is_whole or any(label in group.split(", ") for group in grouped), (panel["title"], label)


@each
def test_what_is_asked_for_is_declared(name: str) -> None:
    for title, expr in expressions(name):
        assert list(find_faults(expr)) == [], title


@each
def test_variables_are_defined_and_links_lead_somewhere(name: str) -> None:
    text = FILES[name].read_text()
    defined = {variable["name"] for variable in READ[name]["templating"]["list"]} | GRAFANAS_OWN
    assert {one or other for one, other in re.findall(r"\$(\w+)|\$\{(\w+)", text)} - {"__all"} <= defined
    uids = {dashboard["uid"] for dashboard in READ.values()}
    assert set(re.findall(r"/d/([\w-]+)", text)) <= uids
    (link,) = READ[name]["links"]
    assert set(link["tags"]) <= set(READ[name]["tags"])
    for variable in READ[name]["templating"]["list"]:
        assert not variable["includeAll"] or variable["allValue"] == ".*", "what has no such label is All, too"


def test_dashboards_say_the_objectives_of_the_rules() -> None:
    assert RECORDED["torchere:objective_in_time:ratio"] == f"vector({OBJECTIVE_IN_TIME})"
    assert RECORDED["torchere:objective_success:ratio"] == f"vector({OBJECTIVE_SUCCESS})"
    assert f'le="{IN_TIME_S}"' in RECORDED["model:torchere_late_answers:rate5m"]


def test_provisioning_fits_compose() -> None:
    compose = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())["services"]
    grafana = compose["grafana"]
    mounts = {source: target for source, target, _ in (mount.split(":") for mount in grafana["volumes"])}
    (source,) = yaml.safe_load((FOLDER / "provisioning/datasources/prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "127.0.0.1:9090:9090" in compose["prometheus"]["ports"]
    (provider,) = yaml.safe_load((FOLDER / "provisioning/dashboards/torchere.yaml").read_text())["providers"]
    assert provider["options"]["path"] == mounts["./grafana/dashboards"]
    assert mounts["./grafana/provisioning"] == "/etc/grafana/provisioning"
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == Path(provider["options"]["path"])
    assert home.stem in FILES

    config = yaml.safe_load((ROOT / "deploy/prometheus/prometheus.yaml").read_text())
    assert config["global"]["scrape_interval"] == source["jsonData"]["timeInterval"], "of it $__rate_interval is made"
    assert config["scrape_configs"][0]["static_configs"][0]["targets"] == [f"torchere:{default_text('metrics_port')}"]


def test_each_dashboard_is_a_small_enough_config_map() -> None:
    made = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
    assert made["generatorOptions"]["labels"] == {"grafana_dashboard": "1"}
    files = [file.partition("=")[2] for found in made["configMapGenerator"] for file in found["files"]]
    assert sorted(files) == [f"dashboards/{name}.json" for name in FILES]
    assert all(path.stat().st_size < LARGEST_BYTES * 3 // 4 for path in FILES.values()), "its quotes are escaped there"
