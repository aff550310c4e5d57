"""The exported model behind a server, as clients meet it.

The server is TF Serving where there is one: the binary `tensorflow_model_server`, or docker with the image
tensorflow/serving; everywhere, the double of its protocol.
"""

import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import requests
import serving_double
import tensorflow as tf
from serving_double import ServingDouble
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub
from tiny_version import TOP_K, ask_for_no_items, write_version

from bert4rec_tf.publishing import versions, write_models_config
from bert4rec_tf.retrieval import MISSING_SCORE
from bert4rec_tf.warm_up import WARM_UP_FILE
from serving import client

ROOT = pathlib.Path(__file__).parents[1]
IMAGE = "tensorflow/serving"


class Started:
    """A server that was started as a process, seen as the double is."""

    def __init__(self, command: list[str], grpc_port: int, rest_port: int, name: str):
        self.grpc_address, self.rest_address = f"localhost:{grpc_port}", f"http://localhost:{rest_port}"
        self._process, self._name = subprocess.Popen(command), name

    def wait_for(self, version: int, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while self._newest() != version:
            assert time.monotonic() < end, self._newest()
            time.sleep(0.1)

    def _newest(self) -> int | None:
        try:
            states = requests.get(f"{self.rest_address}/v1/models/{self._name}", timeout=5).json()
        except requests.RequestException:
            return None
        available = [state for state in states.get("model_version_status", ()) if state["state"] == "AVAILABLE"]
        return max((int(state["version"]) for state in available), default=None)

    def stop(self) -> None:
        self._process.terminate()
        self._process.wait()


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("localhost", 0))
        return listening.getsockname()[1]


def start(kind: str, root: pathlib.Path) -> ServingDouble | Started:
    """A server of the versions in `root`, by its `models.config`."""
    if kind == "double":
        return ServingDouble(root, root.name, models_config=root / "models.config")
    grpc_port, rest_port = free_port(), free_port()
    flags = [
        "--allow_version_labels_for_unavailable_models=true",
        "--model_config_file_poll_wait_seconds=1",
        "--file_system_poll_wait_seconds=1",
    ]
    if kind == "binary":
        binary = shutil.which("tensorflow_model_server")
        if not binary:
            pytest.skip("tensorflow_model_server is not installed")
        config = root.with_name("of_the_binary.config")
        config.write_text((root / "models.config").read_text().replace("/models/", f"{root.parent}/"))
        command = [binary, f"--port={grpc_port}", f"--rest_api_port={rest_port}", f"--model_config_file={config}"]
        return Started([*command, *flags], grpc_port, rest_port, root.name)
    if not shutil.which("docker"):
        pytest.skip("docker is not installed")
    found = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"docker has no image {IMAGE}: {found.stderr.decode().strip().splitlines()[-1]}")
    command = ["docker", "run", "--rm", "-p", f"{grpc_port}:8500", "-p", f"{rest_port}:8501"]
    command += ["-v", f"{root}:/models/{root.name}:ro", IMAGE, f"--model_config_file=/models/{root.name}/models.config"]
    return Started([*command, *flags], grpc_port, rest_port, root.name)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An export directory with one version; tests that change it work on a copy."""
    root = tmp_path_factory.mktemp("serving") / "shop"
    root.mkdir()
    write_version(root / "1", "a")
    write_models_config(root, versions(root))
    return root


@pytest.fixture(scope="module", params=["double", "binary", "docker"])
def server(request: pytest.FixtureRequest, shop: pathlib.Path) -> Iterator[ServingDouble | Started]:
    started = start(request.param, shop)
    try:
        started.wait_for(1)
        yield started
    finally:
        started.stop()


def predict(
    server: ServingDouble | Started, signature: str = "", **inputs: object
) -> tuple[predict_pb2.PredictResponse, dict[str, np.ndarray]]:
    request = predict_pb2.PredictRequest()
    request.model_spec.name, request.model_spec.signature_name = "shop", signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    with grpc.insecure_channel(server.grpc_address) as channel:
        response = PredictionServiceStub(channel).Predict(request, timeout=30)
    return response, {name: tf.make_ndarray(value) for name, value in response.outputs.items()}


def refused(server: ServingDouble | Started, signature: str = "", **inputs: object) -> tuple[str, str]:
    with pytest.raises(grpc.RpcError) as error:
        predict(server, signature, **inputs)
    return error.value.code().name, error.value.details()


def post(server: ServingDouble | Started, path: str = "shop:predict", **body: object) -> requests.Response:
    return requests.post(f"{server.rest_address}/v1/models/{path}", json=body, timeout=30)


def test_grpc_answers_and_applies_defaults(server: ServingDouble | Started) -> None:
    response, fixed = predict(server, item_ids=[["a3", "a4"]])
    assert (response.model_spec.version.value, response.model_spec.signature_name) == (1, "serving_default")
    assert fixed["item_ids"].shape == (1, TOP_K)
    _, whole = predict(server, "recommend", item_ids=[["a3", "a4"]])
    assert whole["item_ids"].tolist() == fixed["item_ids"].tolist()
    _, fewer = predict(server, "recommend", item_ids=[["a3", "a4"]], k=2, allowed_item_ids=[["a4", "a5", "a6", "a7"]])
    assert set(fewer["item_ids"][0].tolist()) < {b"a5", b"a6", b"a7"}
    _, ranked = predict(server, "rank", item_ids=[["a3"]], candidate_item_ids=[["a4", "unknown"]])
    assert ranked["known"].tolist() == [[True, False]]
    assert predict(server, "encode", item_ids=[["a3"]])[1]["vectors"].shape == (1, 8)
    assert predict(server, "examples", examples=[b""])[1]["item_ids"].tolist() == [[b"a0", b"a1", b"a2", b"a3"]]


def test_grpc_refuses_what_tf_serving_refuses(server: ServingDouble | Started) -> None:
    code, message = refused(server, "recommend", item_ids=[["a3"]], k=0)
    assert code == "INVALID_ARGUMENT"
    assert "`k` must be at least 1" in message
    code, message = refused(server, item_ids=[["a3"]], k=3)
    assert code == "INVALID_ARGUMENT"
    assert "input size does not match signature" in message
    assert refused(server, "rank", item_ids=[["a3"]])[0] == "INVALID_ARGUMENT"
    assert refused(server, item_ids=[[3]])[0] == "INVALID_ARGUMENT"
    assert refused(server, "no such signature", item_ids=[["a3"]])[0] in ("FAILED_PRECONDITION", "INVALID_ARGUMENT")


def test_metadata_and_status(server: ServingDouble | Started) -> None:
    with grpc.insecure_channel(server.grpc_address) as channel:
        request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
        request.model_spec.name = "shop"
        metadata = PredictionServiceStub(channel).GetModelMetadata(request, timeout=30)
        signatures = get_model_metadata_pb2.SignatureDefMap()
        metadata.metadata["signature_def"].Unpack(signatures)
        assert {"serving_default", "recommend", "rank", "examples", "encode"} <= set(signatures.signature_def)
        status = get_model_status_pb2.GetModelStatusRequest()
        status.model_spec.name = "shop"
        found = ModelServiceStub(channel).GetModelStatus(status, timeout=30)
    assert [(state.version, state.state) for state in found.model_version_status] == [(1, 30)]


def strict_json(text: str) -> Any:
    """JSON as RFC 8259 has it, without NaN and Infinity."""

    def refuse(constant: str) -> None:
        raise ValueError(f"no JSON: {constant}")

    return json.loads(text, parse_constant=refuse)


def test_rest_rows_and_columns(server: ServingDouble | Started) -> None:
    rows = post(server, instances=[["a3", "a4"], ["", "a5"]]).json()["predictions"]
    _, expected = predict(server, item_ids=[["a3", "a4"], ["", "a5"]])
    assert [row["item_ids"] for row in rows] == expected["item_ids"].astype(str).tolist()
    np.testing.assert_allclose([row["scores"] for row in rows], expected["scores"], rtol=1e-5)
    columns = post(server, inputs=[["a3", "a4"]]).json()["outputs"]
    assert columns["item_ids"] == [rows[0]["item_ids"]]
    whole = {
        "item_ids": [["a3"]], "k": [12], "drop_seen": [True], "excluded_item_ids": [["a4"]], "allowed_item_ids": [[]]
    }  # fmt: skip
    answer = strict_json(post(server, signature_name="recommend", inputs=whole).text)["outputs"]
    assert sorted(answer["item_ids"][0]) == sorted(
        ["", "", *(f"a{number}" for number in range(12) if number not in (3, 4))]
    )
    assert np.float32(answer["scores"][0][-2:]).tolist() == [MISSING_SCORE, MISSING_SCORE]
    unknown = {"item_ids": [["a3"]], "candidate_item_ids": [["a4", "unknown"]]}
    ranked = strict_json(post(server, signature_name="rank", inputs=unknown).text)["outputs"]
    assert ranked["known"] == [[True, False]]
    assert np.float32(ranked["scores"][0][1]) == MISSING_SCORE
    encoded = {"examples": [{"b64": ""}]}
    assert post(server, signature_name="examples", inputs=encoded).json()["outputs"]["item_ids"][0][0] == "a0"
    assert len(post(server, signature_name="encode", instances=[["a3"]]).json()["predictions"][0]) == 8


def test_rest_refuses_what_tf_serving_refuses(server: ServingDouble | Started) -> None:
    for body in (
        {"instances": [["a3"], ["a3", "a4"]]},  # not rectangular
        {"inputs": {"item_ids": [["a3"]]}, "signature_name": "recommend"},  # no defaults over REST
        {"instances": [{"item_ids": ["a3"], "extra": 1}]},
        {"inputs": [[3]]},
        {},
    ):
        answer = post(server, **body)
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]
    assert post(server, "no_such_model:predict", instances=[["a3"]]).status_code == 404


@pytest.mark.parametrize("kind", ["double", "binary", "docker"])
def test_a_new_version_takes_over_a_broken_one_does_not(kind: str, shop: pathlib.Path, tmp_path: pathlib.Path) -> None:
    root = shutil.copytree(shop, tmp_path / "shop")
    server = start(kind, root)
    try:
        server.wait_for(1)
        write_version(root / "2", "b")
        write_models_config(root, versions(root))
        server.wait_for(2)
        assert predict(server, item_ids=[["b3"]])[1]["item_ids"][0][0].startswith(b"b")
        time.sleep(2 if kind != "double" else 0.3)
        previous = post(server, "shop/labels/previous:predict", instances=[["a3"]])
        assert previous.json()["predictions"][0]["item_ids"][0].startswith("a")
        # Versions that do not load, or load and cannot answer their warm-up: the old one goes on.
        for number, spoil in ((3, empty_the_variables), (4, ask_for_no_items)):
            broken = shutil.copytree(root / "2", root / f".tmp-{number}")
            spoil(broken)
            broken.rename(root / str(number))
        if kind == "double":
            end = time.monotonic() + 60
            while not {3, 4} <= {number for number, (state, _) in server.states().items() if state == "END"}:
                assert time.monotonic() < end
                time.sleep(0.02)
        else:
            time.sleep(3)
        assert predict(server, item_ids=[["b3"]])[0].model_spec.version.value == 2
        shutil.rmtree(root / "3")
        shutil.rmtree(root / "4")
        (root / "2").rename(root / ".withdrawn-2")
        write_models_config(root, versions(root))
        server.wait_for(1)
    finally:
        server.stop()


def empty_the_variables(version: pathlib.Path) -> None:
    (version / "variables" / "variables.data-00000-of-00001").write_bytes(b"")


def test_the_double_refuses_a_damaged_warm_up(shop: pathlib.Path, tmp_path: pathlib.Path) -> None:
    root = shutil.copytree(shop, tmp_path / "shop")
    records = root / "1" / WARM_UP_FILE
    content = records.read_bytes()
    records.write_bytes(content[: len(content) // 2])
    with pytest.raises(tf.errors.DataLossError):
        serving_double.Version(root / "1")


def run_client(*flags: str, code: int = 0) -> str:
    command = [sys.executable, "serving/client.py", "--timeout_seconds=30", *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    printed = done.stderr if code else done.stdout
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in printed
    return printed


def test_the_client_asks_in_three_ways(server: ServingDouble | Started, shop: pathlib.Path) -> None:
    asked = ["--item_id=a3", "--item_id=a4", "--excluded_item_id=a5", "--k=20"]
    answers = []
    for where in (
        [f"--server={server.grpc_address}", "--model=shop", f"--export_dir={shop}"],
        [f"--server={server.rest_address}", "--model=shop", f"--export_dir={shop}"],
        [f"--export_dir={shop}"],
    ):
        printed = run_client(*where, *asked)
        answers.append(printed[printed.index("top 9:") :])
        assert "a0  A title" in answers[-1]
        shown = {line.split()[2] for line in answers[-1].splitlines()[1:]}
        assert shown == {f"a{number}" for number in range(12)} - {"a3", "a4", "a5"}
    assert answers[0] == answers[1] == answers[2]


def test_the_client_says_what_went_wrong(server: ServingDouble | Started, shop: pathlib.Path) -> None:
    for address in (server.grpc_address, server.rest_address):
        assert "`k` must be at least 1" in run_client(f"--server={address}", "--model=shop", "--k=0", code=1)
        assert "ound" in run_client(f"--server={address}", "--model=other", code=1)
    for address in (f"localhost:{free_port()}", f"http://localhost:{free_port()}"):
        assert "gave no answer" in run_client(f"--server={address}", "--model=shop", "--timeout_seconds=1", code=1)
    assert "Give --server with --model" in run_client(code=1)
    assert "`k` must be at least 1" in run_client(f"--export_dir={shop}", "--k=0", code=1)
    assert "Only flags are taken" in run_client(f"--export_dir={shop}", "--item_id", "a3", "a4", code=1)


@pytest.mark.parametrize("over", ["grpc_address", "rest_address"])
def test_the_client_asks_again_where_no_answer_came(
    shop: pathlib.Path, monkeypatch: pytest.MonkeyPatch, over: str
) -> None:
    server = ServingDouble(shop, "shop")
    whole, asked = server.version, []

    def busy_twice(*args: object) -> contextlib.AbstractContextManager:
        asked.append(args)
        if len(asked) <= 2:
            raise serving_double.RequestError("UNAVAILABLE", "busy")
        return whole(*args)

    monkeypatch.setattr(server, "version", busy_twice)
    inputs, address = client.recommend_inputs(["a3"], k=3), getattr(server, over)
    try:
        with pytest.raises(client.ServingError, match="busy"):
            client.recommend(address, "shop", inputs, timeout=20, retries=1)
        asked.clear()
        answer = client.recommend(address, "shop", inputs, timeout=20, retries=3)
    finally:
        server.stop()
    assert len(asked) == 3
    assert len(answer.item_ids) == len(answer.scores) == 3


def test_configuration_files_name_what_there_is() -> None:
    compose = (ROOT / "serving" / "compose.yaml").read_text()
    for file in ("batching_parameters.txt", "monitoring.txt", "prometheus.yml"):
        assert f"./{file}:" in compose
        assert (ROOT / "serving" / file).is_file()
    assert "models.config" in compose
    assert json.dumps("/monitoring/prometheus/metrics") in (ROOT / "serving" / "monitoring.txt").read_text()
