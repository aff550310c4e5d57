"""The exported model behind a server, over gRPC and REST, and deploy/client.py.

Tests run against a double of TF Serving's protocol, and against TF Serving itself if the machine has it: as the binary
`tensorflow_model_server`, or as the docker image tensorflow/serving.
"""

import contextlib
import json
import pathlib
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import numpy as np
import pytest
import requests
import tensorflow as tf
from tensorflow_serving.apis import get_model_metadata_pb2, get_model_status_pb2, predict_pb2, prediction_log_pb2
from tensorflow_serving.apis.model_service_pb2_grpc import ModelServiceStub
from tensorflow_serving.apis.prediction_service_pb2_grpc import PredictionServiceStub

from bert4rec_tf.serving.item_scores import MISSING_SCORE
from bert4rec_tf.serving.versions import list_versions, write_models_config
from bert4rec_tf.serving.warmup import BATCH_SIZES, WARM_UP_FILE
from deploy import client
from tests.support import batching_session, rapid_json, serving_double
from tests.support.client_command import run_client
from tests.support.command_line import ROOT
from tests.support.serving_double import ServingDouble
from tests.support.tiny_version import TOP_K, write_bad_warm_up, write_version
from tests.support.version_with_times import write_version_with_times_and_categories

IMAGE = "tensorflow/serving"
BATCHING = ROOT / "deploy" / "batching_parameters.txt"


class Started:
    """TF Serving in a process of its own, with the interface of the double."""

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


def skip_without(kind: str) -> None:
    """Skips the test if this machine has no such server."""
    if kind == "binary" and not shutil.which("tensorflow_model_server"):
        pytest.skip("tensorflow_model_server is not installed")
    if kind == "docker":
        if not shutil.which("docker"):
            pytest.skip("docker is not installed")
        found = subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False)
        if found.returncode:
            pytest.skip(f"docker has no image {IMAGE}: {found.stderr.decode().strip().splitlines()[-1]}")


def start(kind: str, root: pathlib.Path, batching: bool = False) -> ServingDouble | Started:
    """Starts a server of the versions in `root` with its `models.config` and the flags of deploy/compose.yaml."""
    if kind == "double":
        return ServingDouble(
            root,
            root.name,
            models_config=root / "models.config",
            batching_parameters_file=BATCHING if batching else None,
            max_num_load_retries=0,
        )
    skip_without(kind)
    grpc_port, rest_port = free_port(), free_port()
    flags = [
        "--allow_version_labels_for_unavailable_models=true",
        "--model_config_file_poll_wait_seconds=1",
        "--file_system_poll_wait_seconds=1",
        "--max_num_load_retries=0",
    ]
    if batching:
        flags += ["--enable_batching", f"--batching_parameters_file={BATCHING}"]
    if kind == "binary":
        config = root.with_name("of_the_binary.config")
        config.write_text((root / "models.config").read_text().replace("/models/", f"{root.parent}/"))
        command = [
            "tensorflow_model_server",
            f"--port={grpc_port}",
            f"--rest_api_port={rest_port}",
            f"--model_config_file={config}",
        ]
        return Started([*command, *flags], grpc_port, rest_port, root.name)
    command = ["docker", "run", "--rm", "-p", f"{grpc_port}:8500", "-p", f"{rest_port}:8501"]
    command += [
        "-v",
        f"{BATCHING}:{BATCHING}:ro",
        "-v",
        f"{root}:/models/{root.name}:ro",
        IMAGE,
        f"--model_config_file=/models/{root.name}/models.config",
    ]
    return Started([*command, *flags], grpc_port, rest_port, root.name)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """An export directory with one version; tests that change it work on a copy."""
    root = tmp_path_factory.mktemp("serving") / "shop"
    root.mkdir()
    write_version(root / "1", "a")
    write_models_config(root, list_versions(root))
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
        assert {"serving_default", "recommend", "rank", "examples", "encode", "attention"} <= set(
            signatures.signature_def
        )
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


@pytest.mark.parametrize("kind", ["double", "binary", "docker"])
def test_times_and_categories_in_requests(kind: str, tmp_path: pathlib.Path) -> None:
    """With batching, so that the warm-up requests of such a version pass the batching session too."""
    skip_without(kind)
    root = tmp_path / "shop"
    root.mkdir()
    write_version_with_times_and_categories(root / "1")
    write_models_config(root, list_versions(root))
    history, times, asked = ["item-3", "item-5"], [1_700_000_000, 1_700_003_600], 1_700_090_000
    filters = ["brand=x"], ["tags=g"]
    inputs = client.recommend_inputs(history, 5, True, None, None, *filters, times, asked)
    by_order = client.recommend_inputs(history, 5, True, None, None, *filters, [-1, -1], -1)
    server = start(kind, root, batching=True)
    try:
        server.wait_for(1)
        answers = [
            client.recommend(client.Request(address, "shop", inputs, timeout=30))
            for address in (server.grpc_address, server.rest_address)
        ]
        without = client.recommend(client.Request(server.grpc_address, "shop", by_order, timeout=30))
    finally:
        server.stop()
    answers.append(client._without_server(str(root), inputs))
    assert {item for answer in answers for item in answer.item_ids} == {"item-2", "item-6"}, "brand x without tag g"
    for answer in answers:
        assert answer.scores == pytest.approx(answers[0].scores, abs=1e-4)
    assert abs(without.scores[0] - answers[0].scores[0]) > 1e-3, "times matter"
    defaults = client._without_server(str(root), client.recommend_inputs(history, 5))
    assert len(defaults.item_ids) == 5
    with pytest.raises(client.ServingError, match=r"takes no elsewhere"):
        client._without_server(str(root), inputs | {"elsewhere": [1]})


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


# A request's body, the status of its answer, and a part of the answer: of the error's message, or of the items.
WHOLE = b'{"signature_name": "recommend", "inputs": {"item_ids": [["a3"]], "k": [%b], "drop_seen": [true], '
WHOLE += b'"excluded_item_ids": [[]], "allowed_item_ids": [[]]}}'
REST_CASES: list[tuple[bytes, int, str]] = [
    # The text as JSON.
    (b"", 400, "JSON Parse error: The document is empty"),
    (b"   ", 400, "The document is empty. at offset: 3"),
    (b"[", 400, "Invalid value. at offset: 1"),
    (b"[1]", 400, "Is not object"),
    (b'"instances"', 400, "Is not object"),
    (b"nul", 400, "Invalid value. at offset: 3"),
    (b'{"instances": [["a3"]]', 400, "Missing a comma or '}' after an object member. at offset: 22"),
    (b'{"instances": [["a3"],]}', 400, "Invalid value. at offset: 22"),
    (b'{"instances": [["a3"]],}', 400, "Missing a name for object member. at offset: 23"),
    (b'{"instances" [["a3"]]}', 400, "Missing a colon after a name of object member. at offset: 13"),
    (b'{"instances": [["a3" "a4"]]}', 400, "Missing a comma or ']' after an array element. at offset: 21"),
    (b"{'instances': [['a3']]}", 400, "Missing a name for object member. at offset: 1"),
    (b'{instances: [["a3"]]}', 400, "Missing a name for object member. at offset: 1"),
    (b'{"instances": [["a3]]}', 400, "Missing a closing quotation mark in string. at offset: 22"),
    (b'{"instances": [["a\n3"]]}', 400, "Invalid escape character in string. at offset: 18"),
    (b'{"instances": [["a\\x3"]]}', 400, "Invalid escape character in string. at offset: 18"),
    (b'{"instances": [["\\u00g1"]]}', 400, "Incorrect hex digit after \\u escape in string. at offset: 17"),
    (b'{"instances": [["a3"]]} and more', 200, "a"),  # what follows is not read
    (b'{"instances": [["a3"]]}{"instances": 3}', 200, "a"),
    (b'\xef\xbb\xbf{"instances": [["a3"]]}', 200, "a"),
    (b'\t\r\n{ "instances" : [ [ "a3" ] ] }', 200, "a"),
    (b'/* a3 */ {"instances": [["a3"]]}', 400, "Invalid value. at offset: 0"),
    # Strings.
    (b'{"instances": [["\\u0061\\u0033"]]}', 200, "a"),
    (b'{"instances": [["\\ud83d\\ude00"]]}', 200, "a"),
    (b'{"instances": [["\\ud83d"]]}', 400, "The surrogate pair in string is invalid. at offset: 17"),
    (b'{"instances": [["\\ud83d\\u0061"]]}', 400, "The surrogate pair in string is invalid. at offset: 17"),
    (b'{"instances": [["\\ude00"]]}', 200, "a"),  # a lone low one passes, as bytes that are no UTF-8
    (b'{"instances": [["\xff\xfe"]]}', 200, "a"),
    (b'{"instances": [["\\u0000"]]}', 200, "a"),
    # Keys of the request.
    (b"{}", 400, "Missing 'inputs' or 'instances' key"),
    (b'{"Instances": [["a3"]]}', 400, "Missing 'inputs' or 'instances' key"),
    (b'{"instances": [["a3"]], "inputs": [["a3"]]}', 400, "only one of 'inputs' or 'instances' keys to exist"),
    (b'{"instances": [["a3"]], "more": 1}', 200, "a"),
    (b'{"instances": [["a3"]], "instances": 3}', 200, "a"),  # the first one counts
    (b'{"instances": 3, "instances": [["a3"]]}', 400, "Expecting 'instances' to be an list/array"),
    (b'{"inputs": [["a3"]], "inputs": 3}', 200, "a"),
    (b'{"instances": {"item_ids": ["a3"]}}', 400, "Expecting 'instances' to be an list/array"),
    (b'{"instances": []}', 400, "No values in 'instances' array"),
    (b'{"instances": null}', 400, "Expecting 'instances' to be an list/array"),
    # The signature's name.
    (b'{"signature_name": null, "instances": [["a3"]]}', 400, "'signature_name' key must be a string value."),
    (b'{"signature_name": 3, "instances": [["a3"]]}', 400, "'signature_name' key must be a string value."),
    (b'{"signature_name": "", "instances": [["a3"]]}', 200, "a"),
    (b'{"signature_name": "other", "instances": [["a3"]]}', 400, '"other" not found in signature def'),
    (b'{"signature_name": "serving_default", "signature_name": 3, "instances": [["a3"]]}', 200, "a"),
    # Rows.
    (
        b'{"instances": [["a3"], ["a3", "a4"]]}',
        400,
        "element: 1 of 'instances' list. Error: INVALID_ARGUMENT: Expecting",
    ),
    (b'{"instances": ["a3"]}', 400, ""),
    (b'{"instances": [[["a3"]]]}', 400, ""),
    (b'{"instances": [[3]]}', 400, "JSON Value: 3 Type: Number is not of expected type: string"),
    (b'{"instances": [[null]]}', 400, "JSON Value: null Type: Null is not of expected type: string"),
    (b'{"instances": [[]]}', 200, "a"),
    (b'{"instances": [["a3", ["a4"]]]}', 400, "Encountered list at unexpected level: 1 expected < 1"),
    (b'{"instances": [[["a3"], "a4"]]}', 400, "found at incorrect level: 2 in the JSON DOM. Expected at level: 2"),
    (b'{"instances": [{"item_ids": ["a3"]}]}', 200, "a"),
    (b'{"instances": [{"item_ids": ["a3"], "extra": 1}]}', 400, "does not have named input: extra"),
    (b'{"instances": [{}]}', 400, "keys must be equal to: item_ids"),
    (b'{"instances": [{"item_ids": ["a3"], "item_ids": ["a4"]}]}', 200, "a"),  # the first one counts
    (b'{"instances": [{"item_ids": ["a3"]}, ["a4"]]}', 400, "Expecting object but got list at item 1 of input list"),
    (b'{"instances": [["a4"], {"item_ids": ["a3"]}]}', 400, "Expecting value/list but got object at item 1"),
    (b'{"signature_name": "rank", "instances": [["a3"]]}', 400, "instances is a plain list, but expecting"),
    # Columns.
    (b'{"inputs": {"item_ids": [["a3"]]}}', 200, "a"),
    (b'{"inputs": {"item_ids": [["a3"]], "unknown": [[3]]}}', 200, "a"),  # unknown names are ignored
    (b'{"inputs": {"item_ids": [["a3"]], "item_ids": 3}}', 200, "a"),
    (b'{"inputs": {}}', 400, "Missing named input: item_ids in 'inputs' object."),
    (b'{"inputs": [[3]]}', 400, "Type: Number is not of expected type: string"),
    (b'{"inputs": [["a3"], ["a4", "a5"]]}', 400, "unexpected size: 2 at level: 1 expected size: 1"),
    (b'{"inputs": []}', 400, ""),
    (b'{"inputs": "a3"}', 400, ""),
    (b'{"signature_name": "recommend", "inputs": {"item_ids": [["a3"]]}}', 400, "Missing named input: "),
    (b'{"signature_name": "recommend", "inputs": [["a3"]]}', 400, "inputs is a plain value/list, but expecting"),
    # base64.
    (b'{"inputs": [[{"b64": "YTM="}]]}', 200, "a"),
    (b'{"inputs": [[{"b64": "YTM"}]]}', 200, "a"),  # the padding may be left out
    (b'{"inputs": [[{"b64": "Y T\\nM ="}]]}', 200, "a"),
    (b'{"inputs": [[{"b64": "YTM.="}]]}', 400, "Unable to base64 decode"),
    (b'{"inputs": [[{"b64": "YTM=="}]]}', 400, "Unable to base64 decode"),
    (b'{"inputs": [[{"b64": "YTM=YTM="}]]}', 400, "Unable to base64 decode"),
    (b'{"inputs": [[{"b64": "Y"}]]}', 400, "Unable to base64 decode"),
    (b'{"inputs": [[{"b64": "Y-_M"}]]}', 400, "Unable to base64 decode"),
    (b'{"inputs": [[{"b64": 3}]]}', 400, "not formatted correctly for base64 data"),
    (b'{"inputs": [[{"b64": "YTM=", "more": 1}]]}', 400, "not formatted correctly for base64 data"),
    (b'{"inputs": [[{"base64": "YTM="}]]}', 400, "not formatted correctly for base64 data"),
    # Numbers.
    (WHOLE % b"3", 200, "a"),
    (WHOLE % b"1000", 200, "a"),
    (WHOLE % b"2147483647", 400, "`k` must be at most 1000"),
    (WHOLE % b"2147483648", 400, "JSON Value: 2147483648 Type: Number is not of expected type: int32"),
    (WHOLE % b"99999999999999999999", 400, "Type: Number is not of expected type: int32"),
    (WHOLE % b"1e999", 400, "Number too big to be stored in double."),
    (WHOLE % b"3.0", 400, "JSON Value: 3.0 Type: Number is not of expected type: int32"),
    (WHOLE % b"3e0", 400, "Type: Number is not of expected type: int32"),
    (WHOLE % b"-0", 400, "`k` must be at least 1"),
    (WHOLE % b"-2147483648", 400, "`k` must be at least 1"),
    (WHOLE % b"03", 400, "Missing a comma or ']' after an array element."),
    (WHOLE % b"+3", 400, "Invalid value."),
    (WHOLE % b"3.", 400, "Miss fraction part in number."),
    (WHOLE % b"3e", 400, "Miss exponent in number."),
    (WHOLE % b"NaN", 400, "Type: Number is not of expected type: int32"),
    (WHOLE % b"-Inf", 400, "Type: Number is not of expected type: int32"),
    (WHOLE % b"Infinity", 400, "Type: Number is not of expected type: int32"),
    (WHOLE % b'"3"', 400, 'JSON Value: "3" Type: String is not of expected type: int32'),
    (WHOLE % b"true", 400, "JSON Value: true Type: True is not of expected type: int32"),
]


def test_rest_reads_json_as_tf_serving_does(server: ServingDouble | Started) -> None:
    with requests.Session() as session:
        for body, status, expected in REST_CASES:
            answer = session.post(f"{server.rest_address}/v1/models/shop:predict", data=body, timeout=30)
            assert answer.status_code == status, (body, answer.text)
            found = answer.json()
            if status == 400:
                assert expected in found["error"], body
                continue
            row = found["predictions"][0] if "predictions" in found else found["outputs"]
            items = row["item_ids"] if "predictions" in found else row["item_ids"][0]
            assert all(item == "" or item.startswith(expected) for item in items), body
            # The server knows the item a3 in every spelling, and leaves it out.
            is_known = any(spelling in body for spelling in (b"a3", b"u0033", b"YT", b"Y T"))
            assert ("a3" in items) != is_known, body


def test_rest_paths(server: ServingDouble | Started) -> None:
    def code(method: str, path: str) -> int:
        body = b'{"instances": [["a3"]]}' if method == "POST" else None
        return requests.request(method, server.rest_address + path, data=body, timeout=30).status_code

    assert code("POST", "/v1/models/shop/versions/1:predict") == 200
    assert code("POST", "/v1/models/shop/versions/7:predict") == 404
    assert code("POST", "/v1/models/shop/versions/99999999999999999999:predict") == 400
    assert code("POST", "/v1/models/shop/labels/stable:predict") == 200
    assert code("POST", "/v1/models/shop/labels/other:predict") == 400
    assert code("POST", "/V1/Models/sh%6Fp:Predict?a=b") == 200
    assert code("POST", "/v1/models/shop") == 400
    assert code("POST", "/v2/models/shop:predict") == 404
    assert code("GET", "/v1/models/shop/versions/1") == 200
    assert code("GET", "/v1/models/shop/versions/7") == 404
    assert code("GET", "/v1/models/shop/metadata") == 200
    assert code("GET", "/v1/models/other") == 404
    # The server parses the JSON before it looks up the model.
    broken = requests.post(f"{server.rest_address}/v1/models/other:predict", data=b"{", timeout=30)
    assert (broken.status_code, "JSON Parse error" in broken.text) == (400, True)


def test_numbers_and_strings_are_written_as_rapid_json_writes_them() -> None:
    written = {0.2: "0.2", 3.0: "3.0", -3.5704: "-3.5704", 1e6: "1e+06", 1234567.0: "1234567.0", 0.1 + 0.2: "0.3",
               1 / 3: "0.333333343", 2.0**-149: "1.4013e-45", np.nan: "NaN", -np.inf: "-Infinity"}  # fmt: skip
    for value, text in written.items():
        assert rapid_json.decimal(np.float32(value)) == text
    writer = rapid_json.Writer()
    members = [(b"a", [b'"\\\n\x01\xff', 3]), (b"b", [True, None]), (b"c", [])]
    writer.value(rapid_json.Object(members))
    assert writer.text == (
        b'{\n    "a": [\n        "\\"\\\\\\n\\u0001\xff",\n        3\n    ],\n    "b": [\n        true,\n'
        b'        null\n    ],\n    "c": []\n}'
    )


@pytest.mark.parametrize("kind", ["double", "binary", "docker"])
def test_answers_with_and_without_batching_are_equal(kind: str, shop: pathlib.Path) -> None:
    server = start(kind, shop, batching=True)
    unbatched = serving_double.Version(shop / "1")

    def request(size: int) -> tuple[str, dict[str, Any]]:
        rows = {"item_ids": [["a3", f"a{row % 12}"] for row in range(size)]}
        if size % 3 == 0:
            return "", rows
        if size % 3 == 1:
            return "rank", rows | {"candidate_item_ids": [["a1", f"a{row % 7}"] for row in range(size)]}
        lists = {
            "excluded_item_ids": [["a5"]] * size,
            "allowed_item_ids": [["a1"]] * (size // 2) + [[""]] * -(-size // 2),
        }
        return "recommend", rows | lists | {"k": [5] * size, "drop_seen": [row % 2 == 0 for row in range(size)]}

    try:
        server.wait_for(1)
        requests_sent = [request(size) for size in (1, 2, 3, 5, 6, 7, 63, 64, 65, 1, 2, 3, 131, 200)]
        with futures.ThreadPoolExecutor(len(requests_sent)) as pool:
            answers = list(pool.map(lambda sent: predict(server, sent[0], **sent[1])[1], requests_sent))
        for (signature, inputs), found in zip(requests_sent, answers, strict=True):
            protos = {name: tf.make_tensor_proto(value) for name, value in inputs.items()}
            expected = unbatched.predict(signature, protos)
            for alias, value in expected.items():
                if value.dtype == np.float32:
                    np.testing.assert_allclose(found[alias], value, rtol=1e-4)
                else:
                    assert found[alias].tolist() == value.tolist()
        code, message = refused(server, "recommend", item_ids=[["a3"], ["a4"]])
        assert (code, "equal 0th-dimension size" in message) == ("INVALID_ARGUMENT", True)
        code, message = refused(server, item_ids=[["a3"]] * 1025)
        assert (code, "larger than maximum" in message) == ("INVALID_ARGUMENT", True)
        if isinstance(server, ServingDouble):
            with server.version("shop") as version:
                assert version.batching is not None
                assert set(version.batching.executed) == {*BATCH_SIZES}  # the warm-up's, and no other
    finally:
        server.stop()


def test_the_double_does_not_start_if_a_warm_up_request_cannot_be_batched(
    shop: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    root = shutil.copytree(shop, tmp_path / "shop")
    request = predict_pb2.PredictRequest()
    request.model_spec.signature_name = "recommend"
    request.inputs["item_ids"].CopyFrom(tf.make_tensor_proto([["a1"], ["a2"]]))
    log = prediction_log_pb2.PredictionLog(predict_log=prediction_log_pb2.PredictLog(request=request))
    with tf.io.TFRecordWriter(str(root / "1" / WARM_UP_FILE)) as writer:
        writer.write(log.SerializeToString())
    start("double", root).stop()
    with pytest.raises(RuntimeError, match=r"name: shop version: 1.*must have equal 0th-dimension size"):
        start("double", root, batching=True)


def test_batching_session() -> None:
    text = "max_batch_size { value: 6 } batch_timeout_micros { value: 300000 } "
    text += "allowed_batch_sizes: 4 allowed_batch_sizes: 6 "
    seen: list[list[int]] = []

    def run(fetches: dict[str, str], feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(feeds["x"][:, 0].tolist())
        return dict.fromkeys(fetches, 10 * feeds["x"])

    def session(more: str = "") -> batching_session.BatchingSession:
        seen.clear()
        return batching_session.BatchingSession(run, batching_session.parse(text + more))

    def both(batched: batching_session.BatchingSession, *values: np.ndarray) -> list[Any]:
        with futures.ThreadPoolExecutor() as pool:
            first = pool.submit(batched.run, {"y": "y:0"}, {"x": values[0]})
            while not batched.waiting():
                time.sleep(0.001)
            second = pool.submit(batched.run, {"y": "y:0"}, {"x": values[1]})
            return [done.exception() or done.result()["y"].tolist() for done in (first, second)]

    one, two = np.array([[1], [2]]), np.array([[3]])
    assert both(session(), one, two) == [[[10], [20]], [[30]]]
    assert seen == [[1, 2, 3, 3]]  # padded with the first row of the last
    errors = both(session(), one, np.array([[3, 4]]))
    assert [error.code for error in errors] == ["FAILED_PRECONDITION"] * 2
    with pytest.raises(batching_session.RequestError, match="Task size 7 is larger than maximum input batch size 6"):
        session().run({"y": "y:0"}, {"x": np.ones([7, 1])})
    with pytest.raises(batching_session.RequestError, match="at least one dimension"):
        session().run({"y": "y:0"}, {"x": np.ones([2, 1]), "k": np.array(3)})
    with pytest.raises(batching_session.RequestError, match="must match max_batch_size"):
        session("allowed_batch_sizes: 8")
    # Splitting takes requests up to max_batch_size apart, and no larger ones.
    splitting = " enable_large_batch_splitting { value: true } max_execution_batch_size { value: 4 }"
    numbers = np.arange(6)[:, None]
    assert session(splitting).run({"y": "y:0"}, {"x": numbers})["y"].tolist() == (10 * numbers).tolist()
    assert sorted(seen) == [[0, 1, 2, 3], [4, 5, 4, 4]]
    with pytest.raises(batching_session.RequestError, match="Task size 7 is larger"):
        session(splitting).run({"y": "y:0"}, {"x": np.ones([7, 1])})


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["double", "binary", "docker"])
def test_a_new_version_is_served_and_a_broken_one_is_not(kind: str, shop: pathlib.Path, tmp_path: pathlib.Path) -> None:
    root = shutil.copytree(shop, tmp_path / "shop")
    server = start(kind, root)
    try:
        server.wait_for(1)
        write_version(root / "2", "b")
        write_models_config(root, list_versions(root))
        server.wait_for(2)
        assert predict(server, item_ids=[["b3"]])[1]["item_ids"][0][0].startswith(b"b")
        time.sleep(2 if kind != "double" else 0.3)
        previous = post(server, "shop/labels/previous:predict", instances=[["a3"]])
        assert previous.json()["predictions"][0]["item_ids"][0].startswith("a")
        # A version that does not load, and one that cannot answer its warm-up: the old version is still served.
        for number, spoil in ((3, empty_the_variables), (4, write_bad_warm_up)):
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
        write_models_config(root, list_versions(root))
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


@pytest.mark.slow
def test_the_client_answers_the_same_over_grpc_rest_and_without_a_server(
    server: ServingDouble | Started, shop: pathlib.Path
) -> None:
    flags = ["--item_id=a3", "--item_id=a4", "--excluded_item_id=a5", "--k=20"]
    answers = []
    for address in (
        [f"--server={server.grpc_address}", "--model=shop", f"--export_dir={shop}"],
        [f"--server={server.rest_address}", "--model=shop", f"--export_dir={shop}"],
        [f"--export_dir={shop}"],
    ):
        printed = run_client(*address, *flags)
        answers.append(printed[printed.index("top 9:") :])
        assert "a0  A title" in answers[-1]
        item_ids = {line.split()[2] for line in answers[-1].splitlines()[1:]}
        assert item_ids == {f"a{number}" for number in range(12)} - {"a3", "a4", "a5"}
    assert answers[0] == answers[1] == answers[2]


def test_the_client_reports_errors(server: ServingDouble | Started, shop: pathlib.Path) -> None:
    address = [f"--server={server.grpc_address}", "--model=shop"]
    assert "`k` must be at least 1" in run_client(*address, "--k=0", code=1)
    assert "Give --server with --model" in run_client(code=1)


@pytest.mark.slow
def test_the_client_reports_errors_over_grpc_rest_and_without_a_server(
    server: ServingDouble | Started, shop: pathlib.Path
) -> None:
    for address in (server.grpc_address, server.rest_address):
        assert "`k` must be at least 1" in run_client(f"--server={address}", "--model=shop", "--k=0", code=1)
        assert "ound" in run_client(f"--server={address}", "--model=other", code=1)
    for address in (f"localhost:{free_port()}", f"http://localhost:{free_port()}"):
        assert "gave no answer" in run_client(f"--server={address}", "--model=shop", "--timeout_seconds=1", code=1)
    assert "`k` must be at least 1" in run_client(f"--export_dir={shop}", "--k=0", code=1)
    assert "Only flags are taken" in run_client(f"--export_dir={shop}", "--item_id", "a3", "a4", code=1)


@pytest.mark.parametrize("over", ["grpc_address", "rest_address"])
def test_the_client_retries_if_no_answer_came(shop: pathlib.Path, monkeypatch: pytest.MonkeyPatch, over: str) -> None:
    server = ServingDouble(shop, "shop")
    version, calls = server.version, []

    def busy_twice(*args: object) -> contextlib.AbstractContextManager:
        calls.append(args)
        if len(calls) <= 2:
            raise serving_double.RequestError("UNAVAILABLE", "busy")
        return version(*args)

    monkeypatch.setattr(server, "version", busy_twice)
    inputs, address = client.recommend_inputs(["a3"], k=3), getattr(server, over)
    try:
        with pytest.raises(client.ServingError, match="busy"):
            client.recommend(client.Request(address, "shop", inputs, timeout=20, retries=1))
        calls.clear()
        answer = client.recommend(client.Request(address, "shop", inputs, timeout=20, retries=3))
    finally:
        server.stop()
    assert len(calls) == 3
    assert len(answer.item_ids) == len(answer.scores) == 3
