"""The exported graph in C++ with LoadSavedModel and Session::Run, the runtime of TF Serving."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from bert4rec_tf.serving.warmup import WARM_UP_FILE
from tests.support import cpp_runner
from tests.support.tiny_version import write_version

pytestmark = pytest.mark.skipif(not cpp_runner.compiler(), reason="g++ is not installed")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return cpp_runner.build(tmp_path_factory.mktemp("cpp"))


@pytest.mark.slow
@pytest.mark.parametrize("index", ["exact", "ivf"])
def test_every_signature_answers_as_in_python(program: pathlib.Path, tmp_path: pathlib.Path, index: str) -> None:
    version = write_version(tmp_path / "1", "a", index)
    requests = []
    for record in tf.data.TFRecordDataset(str(version / WARM_UP_FILE)):
        request = PredictionLog.FromString(record.numpy()).predict_log.request
        inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
        requests.append((request.model_spec.signature_name, inputs))
    requests.append(("recommend", {"item_ids": [["a1", ""], ["", "b"]], "k": [3, 100], "drop_seen": False}))
    requests.append(("examples", {"examples": np.zeros([0], object)}))
    answers, _ = cpp_runner.run(program, version, requests)
    signatures = tf.saved_model.load(str(version)).signatures
    defaults = {
        "k": tf.constant([4]),
        "drop_seen": tf.constant([True]),
        "excluded_item_ids": tf.constant([], tf.string, [1, 0]),
        "allowed_item_ids": tf.constant([], tf.string, [1, 0]),
    }
    assert len(answers) == len(requests) > 40
    for (name, inputs), answer in zip(requests, answers, strict=True):
        specs = signatures[name].structured_input_signature[1]
        whole = {alias: inputs.get(alias, defaults.get(alias)) for alias in specs}
        expected = signatures[name](**{alias: tf.constant(value, specs[alias].dtype) for alias, value in whole.items()})
        assert set(answer) == set(expected), answer
        for alias, value in expected.items():
            if value.dtype == tf.float32:
                np.testing.assert_allclose(answer[alias], value.numpy(), atol=1e-5)
            else:
                assert answer[alias].tolist() == value.numpy().tolist()


@pytest.mark.slow
def test_wrong_requests_are_invalid_arguments(program: pathlib.Path, tmp_path: pathlib.Path) -> None:
    version = write_version(tmp_path / "1", "a")
    wrong = [
        ("recommend", {"item_ids": [["a1"]], "k": [0]}),
        ("recommend", {"item_ids": [["a1"]], "k": [1, 2]}),
        ("rank", {"item_ids": [["a1"]]}),
        ("serving_default", {"item_ids": [[1]]}),
        ("serving_default", {"item_ids": ["a1"]}),
        ("examples", {"examples": ["no example"]}),
    ]
    answers, _ = cpp_runner.run(program, version, wrong)
    for request, answer in zip(wrong, answers, strict=True):
        assert isinstance(answer, str), request
        assert answer.startswith("INVALID_ARGUMENT"), (request, answer)
