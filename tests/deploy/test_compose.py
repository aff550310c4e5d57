"""The files of deploy/ that start a server."""

import json
import re

from tests.support.command_line import ROOT


def test_configuration_files_are_consistent_and_hardened() -> None:
    compose = (ROOT / "deploy" / "compose.yaml").read_text()
    assert "\t" not in compose
    assert {"serving", "prometheus"} == set(re.findall(r"^  (\w+):$", compose.split("\nvolumes:")[0], re.MULTILINE))
    for service in re.split(r"^  \w+:$", compose.split("\nvolumes:")[0], flags=re.MULTILINE)[1:]:
        settings = dict(re.findall(r"^    (\w+): *(.*?)(?:  #.*)?$", service, re.MULTILINE))
        assert re.fullmatch(r"\w+/\w+:\$\{\w+:-v?\d+\.\d+\.\d+\}", settings["image"])  # a version, not `latest`
        user = re.fullmatch(r'(?:\$\{SERVING_USER:-)?"?(\d+):\d+"?\}?', settings["user"])
        assert user is not None
        assert int(user[1]) > 0
        assert settings["read_only"] == "true"
        assert settings["cap_drop"] == "[ALL]"
        assert {"cpus", "mem_limit", "pids_limit", "healthcheck", "tmpfs", "restart"} <= set(settings)
        ports = json.loads(settings["ports"])
        assert ports
        assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in ports)
    for flag in ("max_num_load_retries=0", "allow_version_labels_for_unavailable_models=true"):
        assert f"      - --{flag}\n" in compose
    for file in ("batching_parameters.txt", "monitoring.txt", "prometheus.yml"):
        assert f"./{file}:" in compose
        assert (ROOT / "deploy" / file).is_file()
    assert "models.config" in compose
    assert json.dumps("/monitoring/prometheus/metrics") in (ROOT / "deploy" / "monitoring.txt").read_text()
