"""Container image, compose file, Prometheus and Grafana: their files agree with each other and the service.

No container is started.
"""

import json
import re
from pathlib import Path

import pytest
import yaml

from openhart.cli.main import build_parser
from openhart.serving.app import create_app
from openhart.serving.metrics import Metrics
from openhart.serving.replica_metrics import merged
from openhart.serving.service import Service

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "integrations" / "monitoring"
DASHBOARD = json.loads((MONITORING / "grafana" / "dashboards" / "openhart.json").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def instructions(name):
    return re.findall(rf"^{name}\s+(.*)$", DOCKERFILE, re.MULTILINE)


class Engine:
    waiting = running = open_requests = 0


def exposed():
    metrics = Metrics()
    metrics.observe_engine(Engine())
    metrics.observe_memory(lambda: 0)
    return metrics


@pytest.mark.parametrize("panel", DASHBOARD["panels"], ids=lambda panel: panel["title"])
def test_panels_show_what_the_service_measures(panel):
    families = list(exposed().registry.collect())
    names = {family.name for family in families}
    suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"], "gauge": [""]}
    series = {family.name + suffix for family in families for suffix in suffixes[family.type]}
    assert names
    for target in panel["targets"]:
        used = set(re.findall(r"\b(?:openhart|process)_\w+", target["expr"]))
        assert used
        assert used <= series


def test_labels_of_the_panels_exist():
    metrics = exposed()
    metrics.answered("/v1/images/generations", 200, 1.0)
    metrics.rejected("queue_full")
    metrics.scale_took(0, 0.1)
    text = merged({"a": metrics.exposition()[0]}).decode()  # as several replicas on Ray show it
    wanted = {label for target in _targets() for label in re.findall(r"by \((\w+(?:, \w+)*)\)", target)}
    labels = {label for group in wanted for label in group.split(", ")} - {"instance"}  # added by Prometheus
    assert labels
    for label in labels:
        assert f'{label}="' in text
    assert 'endpoint="/v1/images/generations"' in text


def _targets():
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]


def test_grafana_finds_its_data_source_and_dashboard():
    source = yaml.safe_load((MONITORING / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"]} == {source["datasources"][0]["uid"]}
    provider = yaml.safe_load((MONITORING / "grafana/provisioning/dashboards/openhart.yaml").read_text())
    mounts = _compose()["services"]["grafana"]["volumes"]
    folder = provider["providers"][0]["options"]["path"]
    assert f"./integrations/monitoring/grafana/dashboards:{folder}:ro" in mounts


def test_services_reach_each_other():
    services = _compose()["services"]
    scraped = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    host, port = scraped["scrape_configs"][0]["static_configs"][0]["targets"][0].split(":")
    assert host in services
    assert port in instructions("EXPOSE")
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.split(":")[0]
            if source.startswith("./integrations"):
                assert (ROOT / source).exists()
            elif not source.startswith("."):
                assert source in _compose()["volumes"]
        for address in service.get("ports", []):
            assert address.startswith("127.0.0.1:")


def _compose():
    return yaml.safe_load((ROOT / "compose.yaml").read_text())


def test_the_image_starts_the_service_as_a_user_without_rights():
    command = json.loads(instructions("ENTRYPOINT")[-1])[1:] + json.loads(instructions("CMD")[-1])
    on_gpu = yaml.safe_load((ROOT / "compose.cuda.yaml").read_text())["services"]["openhart"]["command"]
    for arguments in (command, on_gpu):
        options = build_parser().parse_args(arguments)
        assert options.command == "serve"
        assert options.host == "0.0.0.0"
        assert [str(options.port)] == instructions("EXPOSE")
    assert instructions("USER")[-1] not in ("0", "root")


def test_the_health_check_calls_a_path_of_the_service():
    path = re.search(r"127\.0\.0\.1:8000(/\w+)", instructions("HEALTHCHECK")[0])[1]
    paths = {route.path for route in create_app(Service(lambda: None)).routes}
    assert path in paths


def test_what_the_image_copies_is_there_and_not_ignored():
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().split() if line.startswith("!")}
    for copy in instructions("COPY"):
        *sources, _ = copy.split()
        if not copy.startswith("--from"):
            assert set(sources) <= allowed
            assert all((ROOT / source).exists() for source in sources)
