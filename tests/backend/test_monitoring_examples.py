"""examples/monitoring: every query names metrics and labels of /metrics."""

from __future__ import annotations

import json
import re
from pathlib import Path

import yaml

from backend.db import Database
from tests.backend import filled
from tests.backend.lab import Lab

FOLDER = Path(__file__).parents[2] / "examples" / "monitoring"
_NAME = re.compile(r"\b(?:dkd|process)_[a-z_]+\b")
_SELECTOR = re.compile(r"(\b(?:dkd|process)_[a-z_]+)\{([^}]*)\}")
_SERIES = re.compile(r"^([a-z_]+)(?:\{([^}]*)\})? ", re.MULTILINE)
_ADDED_BY_PROMETHEUS = {"job", "instance"}


def expressions() -> list[str]:
    panels = json.loads((FOLDER / "grafana-dashboard.json").read_text())["panels"]
    rules = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    return queries + [rule["expr"] for group in rules for rule in group["rules"]]


def test_every_query_uses_existing_metrics(lab: Lab, database: Database) -> None:
    filled.fill(lab, database)
    series: dict[str, list[str]] = {}
    for name, labels in _SERIES.findall(lab.admin.get("/metrics").text):
        series.setdefault(name, []).append(labels)
    queries = expressions()
    assert len(queries) > 15
    for query in queries:
        assert _NAME.search(query) or query.startswith("up{"), query
        for name in _NAME.findall(query):
            assert name in series, f"{query}: no series {name}"
        for name, selector in _SELECTOR.findall(query):
            for part in selector.split(","):
                matcher = re.fullmatch(r'(\w+)(!?[=~]{1,2})"([^"]*)"', part.strip())
                assert matcher, f"{query}: {part}"
                label, operator, value = matcher.groups()
                if label in _ADDED_BY_PROMETHEUS:
                    continue
                known = {text for labels in series[name] for text in re.findall(rf'{label}="([^"]*)"', labels)}
                wanted = set(value.split("|")) if "~" in operator else {value}
                assert wanted <= known, f"{query}: {label} is one of {sorted(known)}"


def test_prometheus_accepts_the_rules_and_the_scrape_configuration() -> None:
    config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    assert [Path(FOLDER, name).exists() for name in config["rule_files"]] == [True]
    assert config["scrape_configs"][0].get("metrics_path", "/metrics") == "/metrics"
