"""The files of deploy/ for Kubernetes, Prometheus's alerts and Grafana. Neither was run; their forms are checked."""

import json
import re
from typing import Any

import pytest

from tests.support.command_line import ROOT

yaml = pytest.importorskip("yaml", reason="needs requirements-dev.txt")
DEPLOY = ROOT / "deploy"
# Of TF Serving: /tensorflow/serving/request_count and so on, with colons.
METRICS = {
    ":tensorflow:serving:request_count",
    ":tensorflow:serving:request_latency_bucket",
    ":tensorflow:serving:runtime_latency_bucket",
    ":tensorflow:cc:saved_model:load_attempt_count",
    ":tensorflow:cc:saved_model:load_latency",
}


def manifests() -> list[dict[str, Any]]:
    text = (DEPLOY / "kubernetes.yaml").read_text().replace("MODEL", "ml-1m")
    return list(yaml.safe_load_all(text))


def pod_of(kind: str) -> dict[str, Any]:
    (manifest,) = [each for each in manifests() if each["kind"] == kind]
    spec = manifest["spec"]["jobTemplate"]["spec"] if kind == "CronJob" else manifest["spec"]
    return spec["template"]["spec"]


def test_the_manifests_fit_the_schemas_of_kubernetes() -> None:
    validate = pytest.importorskip("kubernetes_validate", reason="needs requirements-dev.txt")
    assert [each["kind"] for each in manifests()] == [
        "ConfigMap", "Deployment", "Service", "PodDisruptionBudget", "CronJob"
    ]  # fmt: skip
    for manifest in manifests():
        validate.validate(manifest, "1.37", strict=True)
    with pytest.raises(validate.ValidationError):
        validate.validate(manifests()[1] | {"spec": {"replicas": "two"}}, "1.37", strict=True)


def test_the_server_starts_as_in_the_compose_file() -> None:
    (container,) = pod_of("Deployment")["containers"]
    compose = (DEPLOY / "compose.yaml").read_text()
    assert f"tensorflow/serving:${{TF_SERVING_VERSION:-{container['image'].split(':')[1]}}}" in compose
    ports = {"--port=8500", "--rest_api_port=8501"}  # the image's own start script sets these in the compose file
    in_compose = set(re.findall(r"^      - (--\S+)$", compose.replace("${MODEL}", "ml-1m"), re.MULTILINE))
    assert set(container["args"]) == in_compose | ports
    (configuration,) = [each for each in manifests() if each["kind"] == "ConfigMap"]
    assert configuration["data"]["monitoring.txt"].strip() in (DEPLOY / "monitoring.txt").read_text()


@pytest.mark.parametrize("kind", ["Deployment", "CronJob"])
def test_the_containers_are_hardened_and_limited(kind: str) -> None:
    pod = pod_of(kind)
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["automountServiceAccountToken"] is False
    (container,) = pod["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["resources"]["limits"].keys() == {"cpu", "memory"}
    assert not container["image"].endswith(":latest")
    if kind == "Deployment":
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert {"startupProbe", "readinessProbe", "livenessProbe"} <= container.keys()
    else:
        assert (ROOT / container["args"][0].removeprefix("/app/")).is_file()


def expressions() -> list[str]:
    groups = yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"]
    found = [rule["expr"] for group in groups for rule in group["rules"]]
    dashboard = json.loads((DEPLOY / "grafana-dashboard.json").read_text())
    return found + [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def test_alerts_and_dashboard_read_the_servers_metrics() -> None:
    assert len(expressions()) > 10
    for expression in expressions():
        assert set(re.findall(r":tensorflow:[a-z_:]+", expression)) <= METRICS, expression
        assert expression.count("(") == expression.count(")")
        assert expression.count("{") == expression.count("}")
    prometheus = (DEPLOY / "prometheus.yml").read_text()
    assert "rule_files: [/etc/prometheus/alerts.yml]" in prometheus
    assert "job_name: tensorflow_serving" in prometheus
    assert any('up{job="tensorflow_serving"}' in expression for expression in expressions())


def test_the_image_installs_what_the_checkout_pins() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    for file in re.findall(r"/app/([\w.-]+\.txt)", text):
        assert (ROOT / file).is_file()
    assert "USER 65534" in text
    assert re.search(r"^FROM python:3\.\d+-slim$", text, re.MULTILINE)
