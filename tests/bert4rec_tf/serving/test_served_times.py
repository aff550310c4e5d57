"""Times in requests: every signature of a saved model with times, against the model itself."""

import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import saved_model_pb2

from bert4rec_tf.model.averaged_model import AveragedModel, NextItemModel
from bert4rec_tf.serving.recommender import Recommender
from bert4rec_tf.serving.warmup import replay_warm_up, write_warm_up
from tests.support.small_models import CAUSAL, MAX_SEQ_LENGTH, PREFIX_TIMES, TIMES, VOCABULARY_SIZE, random_model
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

ITEMS = tuple(f"a{number}" for number in range(VOCABULARY_SIZE - NUM_SPECIAL_IDS))
VOCABULARY = Vocabulary(ITEMS, np.arange(len(ITEMS), 0, -1), (None,) * len(ITEMS))
START = 1_700_000_000
Row = list[tuple[str, int]]


@pytest.fixture(
    scope="module",
    params=[pytest.param("cloze", marks=pytest.mark.slow), "prefix", pytest.param("average", marks=pytest.mark.slow)],
)
def model(request: pytest.FixtureRequest) -> NextItemModel:
    configs = {"cloze": [TIMES], "prefix": [PREFIX_TIMES], "average": [CAUSAL, TIMES]}[request.param]
    models = [random_model(config, seed) for seed, config in enumerate(configs, 1)]
    return models[0] if len(models) == 1 else AveragedModel(models)


@pytest.fixture(scope="module")
def version(model: NextItemModel, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("times") / "1"
    recommender = Recommender(model, VOCABULARY, top_k=4)
    tf.saved_model.save(recommender, str(path), signatures=recommender.signatures())
    return path


@pytest.fixture(scope="module")
def served(version: pathlib.Path) -> Callable[..., dict[str, np.ndarray]]:
    loaded = tf.saved_model.load(str(version))

    def call(signature: str, **inputs: tf.Tensor) -> dict[str, np.ndarray]:
        specs = loaded.signatures[signature].structured_input_signature[1]
        nothing = tf.constant([], tf.string, [1, 0])
        defaults = {
            "k": tf.constant([len(ITEMS)]),
            "drop_seen": tf.constant([False]),
            "excluded_item_ids": nothing,
            "allowed_item_ids": nothing,
            "timestamps": tf.constant([], tf.int64, [1, 0]),
            "request_time": tf.constant([-1], tf.int64),
        }
        missing = {name: value for name, value in defaults.items() if name in specs and name not in inputs}
        return {name: value.numpy() for name, value in loaded.signatures[signature](**inputs, **missing).items()}

    return call


EVENTS = st.tuples(st.sampled_from([*ITEMS, "unknown", ""]), st.just(-1) | st.integers(START, START + 10**7))
ROWS = st.lists(st.lists(EVENTS, max_size=MAX_SEQ_LENGTH + 4), min_size=1, max_size=4)


def tensors(rows: list[Row]) -> tuple[tf.Tensor, tf.Tensor]:
    length = max(map(len, rows))
    padded = [[*row, *[("", 7)] * (length - len(row))] for row in rows]  # whatever the time of the padding
    ids = [[item for item, _ in row] for row in padded]
    times = [[time for _, time in row] for row in padded]
    return tf.reshape(tf.constant(ids, tf.string), [len(rows), length]), tf.constant(
        times, tf.int64, [len(rows), length]
    )


def scores_of(model: NextItemModel, row: Row, asked: int) -> np.ndarray:
    known = [(ITEMS.index(item) + NUM_SPECIAL_IDS, time) for item, time in row if item in ITEMS]
    if not known:
        return VOCABULARY.log_popularity()[NUM_SPECIAL_IDS:]
    ids, times = (
        tf.constant([column], dtype)
        for column, dtype in zip(zip(*known, strict=True), (tf.int32, tf.int64), strict=True)
    )
    return model.score_next_item(ids, times, tf.constant([asked], tf.int64)).numpy()[0, NUM_SPECIAL_IDS:]


@given(ROWS, st.data())
@settings(max_examples=25)
def test_answers_are_the_models_with_times(
    model: NextItemModel, served: Callable, rows: list[Row], data: st.DataObject
) -> None:
    asked = [data.draw(st.just(-1) | st.integers(START, START + 2 * 10**7)) for _ in rows]
    ids, times = tensors(rows)
    inputs = {"item_ids": ids, "timestamps": times, "request_time": tf.constant(asked, tf.int64)}
    expected = np.stack([scores_of(model, row, time) for row, time in zip(rows, asked, strict=True)])
    answer = served("recommend", **inputs)
    for names, scores, wanted in zip(answer["item_ids"], answer["scores"], expected, strict=True):
        by_item = [wanted[ITEMS.index(name.decode())] for name in names]
        np.testing.assert_allclose(scores, by_item, atol=1e-4)
        np.testing.assert_allclose(scores, np.sort(wanted)[::-1], atol=1e-4)
    ranked = served("rank", candidate_item_ids=tf.constant([ITEMS]), **inputs)
    np.testing.assert_allclose(ranked["scores"], expected, atol=1e-4)
    vectors = served("encode", **inputs)["vectors"]
    table, bias = model.item_table.numpy(), model.output_bias.numpy()
    for row, wanted, vector in zip(rows, expected, vectors, strict=True):
        if any(item in ITEMS for item, _ in row):
            np.testing.assert_allclose((vector @ table.T + bias)[NUM_SPECIAL_IDS:], wanted, atol=1e-4)
    examples = [example(row, time) for row, time in zip(rows, asked, strict=True)]
    fixed = served("examples", examples=tf.constant(examples))
    best = served("recommend", **inputs, k=tf.constant([4]), drop_seen=tf.constant([True]))
    np.testing.assert_array_equal(fixed["item_ids"], best["item_ids"])
    np.testing.assert_allclose(fixed["scores"], best["scores"], atol=1e-4)


def example(row: Row, asked: int) -> bytes:
    ids = tf.train.BytesList(value=[item.encode() for item, _ in row])
    feature = {"item_ids": tf.train.Feature(bytes_list=ids)}
    feature["timestamps"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[time for _, time in row]))
    if asked >= 0:
        feature["request_time"] = tf.train.Feature(int64_list=tf.train.Int64List(value=[asked]))
    return tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()


def test_a_request_without_times_is_one_with_unknown_times(served: Callable) -> None:
    ids = tf.constant([["a1", "a2", "a3"], ["a4", "", ""]])
    unknown = {"timestamps": tf.fill([2, 3], tf.constant(-1, tf.int64)), "request_time": tf.constant([-5], tf.int64)}
    for signature in ("recommend", "encode", "attention"):
        for name, values in served(signature, item_ids=ids).items():
            np.testing.assert_array_equal(values, served(signature, item_ids=ids, **unknown)[name])
    default = served("serving_default", item_ids=ids)
    best = served("recommend", item_ids=ids, k=tf.constant([4]), drop_seen=tf.constant([True]))
    np.testing.assert_array_equal(default["item_ids"], best["item_ids"])
    bare = tf.train.Example()
    bare.features.feature["item_ids"].bytes_list.value.extend([b"a1", b"a2", b"a3"])
    answer = served("examples", examples=tf.constant([bare.SerializeToString()]))
    np.testing.assert_array_equal(answer["item_ids"], default["item_ids"][:1])


def test_times_of_other_shapes_are_refused(served: Callable) -> None:
    ids = tf.constant([["a1", "a2"], ["a3", "a4"]])
    for times in (tf.zeros([2, 1], tf.int64), tf.zeros([1, 2], tf.int64), tf.zeros([2, 3], tf.int64)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="`timestamps` must have the shape of `item_ids`"):
            served("recommend", item_ids=ids, timestamps=times)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`request_time` must have one row"):
        served("recommend", item_ids=ids, request_time=tf.zeros([3], tf.int64))
    uneven = example([("a1", START), ("a2", START)], -1)
    (feature := tf.train.Example.FromString(uneven)).features.feature["timestamps"].int64_list.value.pop()
    with pytest.raises(tf.errors.InvalidArgumentError, match="`timestamps` must have the shape of `item_ids`"):
        served("examples", examples=tf.constant([feature.SerializeToString()]))


def test_the_signatures_name_their_defaults(version: pathlib.Path) -> None:
    (graph,) = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes()).meta_graphs
    optional = {"timestamps", "request_time"}
    for name, defaults in {
        "serving_default": set(),
        "examples": set(),
        "rank": optional,
        "encode": optional,
        "attention": optional,
        "recommend": optional | {"k", "drop_seen", "excluded_item_ids", "allowed_item_ids"},
    }.items():
        found = graph.signature_def[name].defaults
        assert set(found) == defaults, name
        if defaults:
            assert tf.make_ndarray(found["timestamps"]).shape == (1, 0)
            assert tf.make_ndarray(found["request_time"]).tolist() == [-1]


def test_warm_up_requests_with_times_are_answered(version: pathlib.Path) -> None:
    (version / "assets.extra").mkdir(exist_ok=True)
    write_warm_up(version, VOCABULARY, MAX_SEQ_LENGTH, with_times=True)
    replay_warm_up(version)
