"""The served model: a SavedModel that is saved, loaded and compared with plain Python."""

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import saved_model_pb2

from bert4rec_tf.config import Config, ModelConfig
from bert4rec_tf.model.bert4rec import Bert4Rec, build_model
from bert4rec_tf.serving import row_blocks
from bert4rec_tf.serving.item_scores import MISSING_SCORE, item_scores
from bert4rec_tf.serving.ivf_index import InvertedFileIndex
from bert4rec_tf.serving.recommender import DEFAULT_MAX_K, Recommender
from tests.support.command_line import ROOT
from tfrecords.config import DataConfig
from tfrecords.vocabulary import NUM_SPECIAL_IDS, Vocabulary

CONFIG = Config(
    data=DataConfig(max_seq_length=6), model=ModelConfig(hidden_size=8, num_heads=2, num_layers=2, feed_forward_size=16)
)
MAX_SEQ_LENGTH = CONFIG.data.max_seq_length
TOP_K = 5
ITEM_IDS = (
    "tab\tbed", "line\nend", "\u2028", " ", "0", "🍕", "👩\u200d👧", "\u00e9", "e\u0301", "[MASK]", "[PAD]", "[UNK]",
    "nul\0", "\0", "x" * 65_535, '"quoted\\"', "ひ", "a", "A", "a ",
)  # fmt: skip
# Many counts are equal, so popularity ties are common.
VOCABULARY = Vocabulary(ITEM_IDS, np.array([9, 9, 8, 5, 5, 5, 5] + [2] * 8 + [0] * 5), (None,) * len(ITEM_IDS))
UNKNOWN = ["unknown", "tab", "E\u0301", "x" * 65_534, "nul", "\ufeff0"]

LONG = "x" * 65_536
Answer = tuple[list[list[str]], np.ndarray]
Score = Callable[[list[str]], np.ndarray]


@pytest.fixture(scope="module")
def model() -> Bert4Rec:
    model = build_model(CONFIG.model, VOCABULARY.size, MAX_SEQ_LENGTH)
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables:
        centre = 1.0 if "gamma" in variable.name else 0.0
        variable.assign(centre + generator.uniform(-1, 1, variable.shape))
    return model


@pytest.fixture(scope="module")
def score(model: Bert4Rec) -> Score:
    """Scores of all items after a history, from the model itself."""
    graph = tf.function(model.score_next_item, input_signature=[tf.TensorSpec([1, None], tf.int32)])

    def score_history(history: list[str]) -> np.ndarray:
        known = [ITEM_IDS.index(item_id) + NUM_SPECIAL_IDS for item_id in history if item_id in ITEM_IDS]
        scores = graph(tf.constant([known])).numpy()[0] if known else VOCABULARY.log_popularity()
        return scores[NUM_SPECIAL_IDS:]

    return score_history


@pytest.fixture(scope="module", params=["exact", pytest.param("ivf", marks=pytest.mark.slow)])
def saved(request: pytest.FixtureRequest, model: Bert4Rec, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A SavedModel. An inverted file that probes all of its cells must answer like the exact index."""
    path = tmp_path_factory.mktemp("serving") / request.param
    scores = item_scores(model, VOCABULARY)
    index = InvertedFileIndex(scores, num_cells=4) if request.param == "ivf" else None
    recommender = Recommender(model, VOCABULARY, TOP_K, index)
    tf.saved_model.save(recommender, str(path), signatures=recommender.signatures())
    return path


@pytest.fixture(scope="module")
def served(saved: pathlib.Path) -> Callable[..., dict[str, np.ndarray]]:
    """Calls a signature of the loaded model: takes lists of ids and returns arrays."""
    loaded = tf.saved_model.load(str(saved))

    def call(signature: str, **inputs: list) -> dict[str, np.ndarray]:
        function = loaded.signatures[signature]
        _, specs = function.structured_input_signature
        tensors = {name: tensor(value, specs[name].dtype) for name, value in inputs.items()}
        defaults = {
            "k": tf.constant([TOP_K]),
            "drop_seen": tf.constant([True]),
            "excluded_item_ids": tf.constant([], tf.string, [1, 0]),
            "allowed_item_ids": tf.constant([], tf.string, [1, 0]),
        }
        missing = {name: value for name, value in defaults.items() if name in specs and name not in tensors}
        return {name: value.numpy() for name, value in function(**tensors, **missing).items()}

    return call


def tensor(value: list | int, dtype: tf.DType) -> tf.Tensor:
    if dtype != tf.string or not isinstance(value[0] if value else [], list):
        return tf.constant(value, dtype)
    # As bytes, since an array of str loses trailing NULs.
    flat = [item_id.encode() for row in value for item_id in row]
    return tf.reshape(tf.constant(flat, tf.string), [len(value), len(value[0]) if value else 0])


def rows_of(answer: dict[str, np.ndarray]) -> Answer:
    assert set(answer) == {"item_ids", "scores"}
    assert answer["item_ids"].shape == answer["scores"].shape
    return [[item_id.decode() for item_id in row] for row in answer["item_ids"].tolist()], answer["scores"]


def rectangle(rows: list[list[str]], side: str) -> list[list[str]]:
    length = max(map(len, rows), default=0)
    return [row + [""] * (length - len(row)) if side == "right" else [""] * (length - len(row)) + row for row in rows]


@dataclasses.dataclass(frozen=True)
class Request:
    """The inputs of `recommend`, with padded rows."""

    histories: list[list[str]]
    k: int
    drop_seen: bool
    excluded: list[list[str]]
    allowed: list[list[str]]


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """Up to four rows of known and unknown ids, with repeats, "" anywhere, and up to 3 N entries."""
    few_ids = draw(st.lists(st.sampled_from([*ITEM_IDS, *UNKNOWN, ""]), min_size=1, unique=True))
    num_rows = draw(st.integers(1, 4))

    def rows(longest: int) -> list[list[str]]:
        row = st.lists(st.sampled_from(few_ids), max_size=longest)
        return rectangle(
            draw(st.lists(row, min_size=num_rows, max_size=num_rows)), draw(st.sampled_from(["left", "right"]))
        )

    lists = [rows(3 * MAX_SEQ_LENGTH), rows(draw(st.sampled_from([0, 8]))), rows(draw(st.sampled_from([0, 8])))]
    return Request(lists[0], draw(st.integers(1, len(ITEM_IDS) + 4)), draw(st.booleans()), *lists[1:])


def check_row(request: Request, row: int, item_ids: list[str], scores: np.ndarray, score: Score) -> None:
    """Compares one row of an answer with plain Python."""
    history, allowed = request.histories[row], set(request.allowed[row]) - {""}
    dropped = (set(history) if request.drop_seen else set()) | set(request.excluded[row])
    by_id = dict(zip(ITEM_IDS, score(history).tolist(), strict=True))
    expected = {
        item_id: value
        for item_id, value in by_id.items()
        if item_id not in dropped and (not allowed or item_id in allowed)
    }
    found = [item_id for item_id in item_ids if item_id]
    assert len(found) == min(request.k, len(expected))
    assert item_ids == found + [""] * (len(item_ids) - len(found)), "empty entries come last"
    assert len(set(found)) == len(found)
    assert set(found) <= set(expected), "never a special, a seen, an excluded, or a forbidden item"
    assert np.all(np.isfinite(scores))
    assert np.all(scores[len(found) :] == MISSING_SCORE)
    assert np.all(scores[: len(found)] > MISSING_SCORE)
    assert np.all(np.diff(scores[: len(found)]) <= 0)
    best = sorted(expected.values(), reverse=True)[: len(found)]
    np.testing.assert_allclose(scores[: len(found)], best, atol=1e-4)
    np.testing.assert_allclose([expected[item_id] for item_id in found], best, atol=1e-4)


def check_requests(served: Callable, score: Score, request: Request) -> None:
    item_ids, scores = rows_of(
        served(
            "recommend",
            item_ids=request.histories,
            k=request.k,
            drop_seen=request.drop_seen,
            excluded_item_ids=request.excluded,
            allowed_item_ids=request.allowed,
        )
    )
    assert scores.shape == (len(request.histories), min(request.k, len(ITEM_IDS)))
    for row in range(len(request.histories)):
        check_row(request, row, item_ids[row], scores[row], score)


def test_signatures_keep_their_contract(saved: pathlib.Path) -> None:
    loaded = tf.saved_model.load(str(saved))
    ids, vectors = ("string", [None, None]), ("float32", [None, 8])
    top_k_items = {"item_ids": ("string", [None, TOP_K]), "scores": ("float32", [None, TOP_K])}
    any_k_items = {"item_ids": ids, "scores": ("float32", [None, None])}
    lists = {"item_ids": ids, "excluded_item_ids": ids, "allowed_item_ids": ids}
    expected = {
        "serving_default": ({"item_ids": ids}, top_k_items),
        "recommend": ({**lists, "k": ("int32", None), "drop_seen": ("bool", None)}, any_k_items),
        "rank": (
            {"item_ids": ids, "candidate_item_ids": ids},
            {"scores": ("float32", [None, None]), "known": ("bool", [None, None])},
        ),
        "examples": ({"examples": ("string", [None])}, top_k_items),
        "encode": ({"item_ids": ids}, {"vectors": vectors}),
        "attention": ({"item_ids": ids}, {"weights": ("float32", [None, 2, 2, None])}),
    }

    def described(specs: dict[str, tf.TensorSpec]) -> dict[str, tuple]:
        return {
            name: (spec.dtype.name, spec.shape.as_list() if spec.shape.rank is not None else None)
            for name, spec in specs.items()
        }

    assert set(loaded.signatures) == set(expected)
    for name, (inputs, outputs) in expected.items():
        signature = loaded.signatures[name]
        assert described(signature.structured_input_signature[1]) == inputs
        assert described(signature.structured_outputs) == outputs


def test_graph_has_no_xla_and_no_python(saved: pathlib.Path) -> None:
    (graph,) = saved_model_pb2.SavedModel.FromString((saved / "saved_model.pb").read_bytes()).meta_graphs
    functions = graph.graph_def.library.function
    nodes = [*graph.graph_def.node, *(node for function in functions for node in function.node_def)]
    assert len(nodes) > 100
    for function_or_node in [*functions, *nodes]:
        assert not function_or_node.attr["_XlaMustCompile"].b
    assert not {node.op for node in nodes if "Xla" in node.op or "PyFunc" in node.op}


def test_ids_are_in_the_variables_once_and_not_in_the_graph(saved: pathlib.Path) -> None:
    """A graph of more than 2 GiB cannot be saved."""
    longest = max(ITEM_IDS, key=len).encode()
    assert longest[:1000] not in (saved / "saved_model.pb").read_bytes()
    assert (saved / "variables" / "variables.data-00000-of-00001").read_bytes().count(longest) == 1
    (graph,) = saved_model_pb2.SavedModel.FromString((saved / "saved_model.pb").read_bytes()).meta_graphs
    functions = graph.graph_def.library.function
    nodes = [*graph.graph_def.node, *(node for function in functions for node in function.node_def)]
    assert max(node.ByteSize() for node in nodes) < 10_000, "whatever the catalogue's size"


@settings(max_examples=50)
@given(request=requests())
def test_answers_equal_plain_python(score: Score, served: Callable, request: Request) -> None:
    check_requests(served, score, request)


@pytest.mark.slow
@settings(max_examples=4_500)  # of 2.3 rows on average
@given(request=requests())
def test_ten_thousand_answers_equal_plain_python(score: Score, served: Callable, request: Request) -> None:
    check_requests(served, score, request)


@settings(max_examples=40)
@given(request=requests())
def test_fixed_k_and_examples_answer_as_recommend(served: Callable, request: Request) -> None:
    whole = rows_of(served("recommend", item_ids=request.histories))
    fixed = rows_of(served("serving_default", item_ids=request.histories))
    assert whole[0] == fixed[0]
    np.testing.assert_allclose(whole[1], fixed[1], atol=1e-5)
    lists = {"item_ids": request.histories, "excluded_item_ids": request.excluded, "allowed_item_ids": request.allowed}
    examples = []
    for row in range(len(request.histories)):
        # Without the padding: the rows are of different lengths, and some features are missing.
        features = {name: [item_id for item_id in rows[row] if item_id] for name, rows in lists.items()}
        examples.append(example({name: values for name, values in features.items() if values}))
    item_ids, scores = rows_of(served("examples", examples=examples))
    expected_ids, expected_scores = rows_of(
        served(
            "recommend",
            item_ids=request.histories,
            excluded_item_ids=request.excluded,
            allowed_item_ids=request.allowed,
        )
    )
    assert item_ids == expected_ids
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)


def example(features: dict[str, list[str]]) -> bytes:
    return tf.train.Example(
        features=tf.train.Features(
            feature={
                name: tf.train.Feature(bytes_list=tf.train.BytesList(value=[item_id.encode() for item_id in values]))
                for name, values in features.items()
            }
        )
    ).SerializeToString()


@settings(max_examples=40)
@given(request=requests(), candidates=st.lists(st.sampled_from([*ITEM_IDS, *UNKNOWN, ""]), max_size=12))
def test_rank_scores_in_the_order_given(
    served: Callable, score: Score, request: Request, candidates: list[str]
) -> None:
    answer = served("rank", item_ids=request.histories, candidate_item_ids=[candidates])
    for row, history in enumerate(request.histories):
        by_id = dict(zip(ITEM_IDS, score(history).tolist(), strict=True))
        expected = [by_id.get(item_id, MISSING_SCORE) for item_id in candidates]
        np.testing.assert_allclose(answer["scores"][row], np.float32(expected), atol=1e-4)
        assert answer["known"][row].tolist() == [item_id in by_id for item_id in candidates]


def test_encoded_vectors_give_the_scores(served: Callable, score: Score, model: Bert4Rec) -> None:
    histories = rectangle([["0", "a", "A"], ["[MASK]"], list(ITEM_IDS[:14])], "left")
    vectors = served("encode", item_ids=histories)["vectors"]
    table, bias = model.embedding.item_table.numpy(), model.head.output_bias.numpy()
    scores = (vectors @ table.T + bias)[:, NUM_SPECIAL_IDS:]
    np.testing.assert_allclose(scores, [score(history) for history in histories], atol=1e-4)


def test_attention_is_in_the_columns_of_the_history(served: Callable, model: Bert4Rec) -> None:
    histories = [["", "0", "unknown", "a", "A"], ["[MASK]", "", "", "", ""], ["A", "a", "0", "", "a"]]
    weights = served("attention", item_ids=histories)["weights"]
    ids = tf.constant([VOCABULARY.ids_of(row) for row in histories])
    np.testing.assert_allclose(weights, model.attend_to_history(ids), atol=1e-5)
    assert ((weights > 0).any(axis=(1, 2)) == [[0, 1, 0, 1, 1], [1, 0, 0, 0, 0], [1, 1, 1, 0, 1]]).all()


@pytest.mark.slow
def test_only_searches_over_all_items_use_the_index(model: Bert4Rec, monkeypatch: pytest.MonkeyPatch) -> None:
    index = InvertedFileIndex(item_scores(model, VOCABULARY), num_cells=4)
    index.probes.assign(1)
    few, exact = (Recommender(model, VOCABULARY, TOP_K, each).signatures() for each in (index, None))
    histories = tf.constant([["0", "a", "A"], ["", "unknown", ""], ["a ", "[MASK]", ""]])
    lists = tf.constant([["A", "\u2028", "0", "tab\tbed", "[PAD]", "unknown"]])
    none = tf.constant([], tf.string, [1, 0])
    for name, inputs in {
        "recommend": [histories, tf.constant([TOP_K]), tf.constant([True]), none, lists],
        "rank": [histories, lists],
        "encode": [histories],
        "attention": [histories],
    }.items():
        for key, expected in exact[name](*inputs).items():
            np.testing.assert_array_equal(few[name](*inputs)[key], expected, err_msg=f"{name} {key}")
    searched, search = [], index.top

    def recorded(*arguments: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        searched.append(arguments)
        return search(*arguments)

    monkeypatch.setattr(index, "top", recorded)
    answers = [each["serving_default"](histories)["item_ids"].numpy().tolist() for each in (few, exact)]
    assert answers[0][1] == answers[1][1], "without a known item"
    assert searched, "`serving_default` searches the index"
    all_items = few["recommend"](histories, tf.constant([20]), tf.constant([True]), none, none)["item_ids"].numpy()
    assert (all_items != b"").sum(axis=1).tolist() == [17, 20, 18], "all items except those of the history"


def test_one_list_for_all_rows_equals_one_for_each(served: Callable) -> None:
    histories, one = [["0", "a"], ["A", ""], ["", "unknown"]], [["a ", "nul\0", "tab\tbed"]]
    for name in ("excluded_item_ids", "allowed_item_ids"):
        for_all, for_each = (
            rows_of(served("recommend", item_ids=histories, **{name: rows})) for rows in (one, one * 3)
        )
        assert for_all[0] == for_each[0]
        np.testing.assert_array_equal(for_all[1], for_each[1])
        assert {item_id in one[0] for row in for_all[0] for item_id in row if item_id} == {name == "allowed_item_ids"}
    candidates = [["a", "A"], ["0", "unknown"], ["a ", "0"]]
    together = served("rank", item_ids=histories, candidate_item_ids=candidates)
    for row in range(3):
        alone = served("rank", item_ids=histories[row : row + 1], candidate_item_ids=candidates[row : row + 1])
        np.testing.assert_allclose(together["scores"][row], alone["scores"][0], atol=1e-5)
        assert together["known"][row].tolist() == alone["known"][0].tolist()


@pytest.mark.parametrize("history", [[], [""], ["", "", ""], ["unknown"], ["", "unknown", "nul"]])
def test_without_a_known_item_the_most_popular_items_are_recommended(served: Callable, history: list[str]) -> None:
    item_ids, scores = rows_of(served("serving_default", item_ids=[history]))
    assert item_ids == [list(ITEM_IDS[:TOP_K])], "ties by the order of the vocabulary"
    np.testing.assert_array_equal(scores[0], VOCABULARY.log_popularity()[NUM_SPECIAL_IDS:][:TOP_K])
    assert np.isfinite(served("encode", item_ids=[history])["vectors"]).all()


def test_requests_without_columns_or_rows(served: Callable) -> None:
    item_ids, scores = rows_of(served("serving_default", item_ids=[[], [], []]))
    assert item_ids == [list(ITEM_IDS[:TOP_K])] * 3
    assert np.isfinite(scores).all()
    for signature in ("serving_default", "recommend"):
        item_ids, scores = rows_of(served(signature, item_ids=[]))
        assert item_ids == []
        assert scores.shape == (0, TOP_K)
    assert rows_of(served("recommend", item_ids=[], k=[], drop_seen=[]))[0] == []


def test_the_newest_items_are_the_context_and_all_are_seen(served: Callable) -> None:
    history = [*ITEM_IDS[3:15], "unknown", "a", "a", "unknown", ""]
    known = [item_id for item_id in history if item_id in ITEM_IDS]
    answers = []
    for row in (history, known[-(MAX_SEQ_LENGTH - 1) :]):
        (item_ids,), (scores,) = rows_of(served("recommend", item_ids=[row], k=len(ITEM_IDS)))
        answers.append(dict(zip(item_ids, scores, strict=True)))
    whole, last = answers
    assert set(whole) == {*ITEM_IDS, ""} - set(history) | {""}
    for item_id in set(whole) - {""}:
        assert whole[item_id] == last[item_id], "bit for bit"


def test_rows_do_not_depend_on_other_rows(served: Callable) -> None:
    rows = [["0", "a", "A"], ["[MASK]"], list(ITEM_IDS[:14]), ["unknown"], [], ["🍕", "", "é", "0"]]
    together, scores = rows_of(served("serving_default", item_ids=rectangle(rows, "left")))
    for index, row in enumerate(rows):
        alone, alone_scores = rows_of(served("serving_default", item_ids=[row]))
        assert together[index] == alone[0]
        np.testing.assert_allclose(scores[index], alone_scores[0], atol=1e-5)


def test_ids_are_compared_byte_by_byte(served: Callable) -> None:
    # NFC and NFD differ, "[MASK]" is an ordinary item, and "nul" differs from "nul" with a NUL after it.
    for item_id in ITEM_IDS:
        (item_ids,), _ = rows_of(served("recommend", item_ids=[[item_id]], k=100))
        assert set(item_ids) == {*ITEM_IDS, ""} - {item_id}


def test_each_row_may_have_its_own_k_and_drop_seen(served: Callable) -> None:
    item_ids, scores = rows_of(
        served("recommend", item_ids=[["a", "0"]] * 3, k=[2, 4, DEFAULT_MAX_K], drop_seen=[True, True, False])
    )
    assert [sum(item_id != "" for item_id in row) for row in item_ids] == [2, 4, len(ITEM_IDS)]
    assert item_ids[0][:2] == item_ids[1][:2]
    assert {"a", "0"} <= set(item_ids[2])
    assert ((scores > MISSING_SCORE) == (np.array(item_ids, object) != "")).all()


@pytest.mark.parametrize("k", [0, -1, [3, 0], -(2**31)])
def test_k_below_one_is_refused(served: Callable, k: int | list[int]) -> None:
    with pytest.raises(tf.errors.InvalidArgumentError, match="`k` must be at least 1"):
        served("recommend", item_ids=[["a"], ["0"]], k=k)


@pytest.mark.parametrize("k", [DEFAULT_MAX_K + 1, [3, DEFAULT_MAX_K + 1], 2**31 - 1])
def test_k_above_the_limit_is_refused(served: Callable, k: int | list[int]) -> None:
    with pytest.raises(
        tf.errors.InvalidArgumentError, match="`k` must be at most 1000, which is --max_k of the export"
    ):
        served("recommend", item_ids=[["a"], ["0"]], k=k)


def test_max_k_limits_k(model: Bert4Rec) -> None:
    inputs = tf.constant([["a"]]), tf.constant(7), tf.constant(True), tf.constant([[""]]), tf.constant([[""]])
    assert Recommender(model, VOCABULARY, TOP_K, max_k=7).recommend(*inputs)["item_ids"].shape == (1, 7)
    with pytest.raises(tf.errors.InvalidArgumentError, match="`k` must be at most 6"):
        Recommender(model, VOCABULARY, TOP_K, max_k=6).recommend(*inputs)
    assert Recommender(model, VOCABULARY, top_k=2000).max_k == 2000


def test_blocks_of_rows_answer_as_all_rows_at_once(
    served: Callable, saved: pathlib.Path, model: Bert4Rec, monkeypatch: pytest.MonkeyPatch
) -> None:
    histories = rectangle([["0", "a", "A"], ["[MASK]"], list(ITEM_IDS[:14]), ["unknown"], [""]], "left")
    one, each = [["a", "0", "unknown"]], rectangle([["a"], [""], ["0", "A", "a "], ["a "], ["\0"]], "right")
    k, drop_seen = [1, 20, 3, 4, 5], [True, False, True, True, False]
    features = [{"item_ids": row, "allowed_item_ids": row[2:]} for row in histories]
    requests = {
        "recommend": {
            "item_ids": histories, "k": k, "drop_seen": drop_seen, "excluded_item_ids": one, "allowed_item_ids": each
        },
        "rank": {"item_ids": histories, "candidate_item_ids": one},
        "examples": {"examples": [example(row) for row in features]},
        "encode": {"item_ids": histories},
        "attention": {"item_ids": histories},
    }  # fmt: skip
    cells = InvertedFileIndex(item_scores(model, VOCABULARY), num_cells=4) if saved.name == "ivf" else None
    recommender = Recommender(model, VOCABULARY, TOP_K, cells)
    monkeypatch.setattr(row_blocks, "BLOCK_FLOATS", int(2.9 * recommender._encoder_floats))  # two rows
    for name, inputs in requests.items():
        function = recommender.signatures()[name]
        dtypes = {spec.name: spec.dtype for spec in function.input_signature}
        blocked = function(**{key: tensor(value, dtypes[key]) for key, value in inputs.items()})
        for key, values in served(name, **inputs).items():
            if values.dtype == np.float32:
                np.testing.assert_allclose(blocked[key], values, atol=1e-5, err_msg=f"{name} {key}")
            else:
                np.testing.assert_array_equal(blocked[key], values, err_msg=f"{name} {key}")


@pytest.mark.slow
def test_memory_of_a_request_is_bounded(tmp_path: pathlib.Path) -> None:
    """The request has 400 rows over 200,000 items, whose scores take 320 MB."""
    script = ROOT / "tests" / "support" / "request_memory.py"
    done = subprocess.run([sys.executable, script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    grown = json.loads(done.stdout)
    assert grown["serving_default"] < 400, grown  # two blocks of 128 MiB; 620 without blocks
    assert grown["examples"] < 200, grown  # one long list among 400 rows; 860 without blocks


def test_shapes_that_do_not_fit_are_refused(served: Callable) -> None:
    for wrong in ({"k": [1, 2, 3]}, {"excluded_item_ids": [["a"]] * 3}, {"drop_seen": [True] * 3}):
        with pytest.raises(tf.errors.InvalidArgumentError):
            served("recommend", item_ids=[["a"], ["0"]], **wrong)
    with pytest.raises(tf.errors.InvalidArgumentError, match="arse"):
        served("examples", examples=[b"no example"])


def test_scores_of_huge_weights_are_finite() -> None:
    weight = 3e38
    model = build_model(CONFIG.model, VOCABULARY.size, MAX_SEQ_LENGTH)
    model.embedding.item_table.assign(tf.random.stateless_uniform([VOCABULARY.size, 8], [1, 2], -weight, weight))
    model.head.output_bias.assign(tf.random.stateless_uniform([VOCABULARY.size], [3, 4], -weight, weight))
    histories, ids = tf.constant([["a", "0"], ["unknown", ""]]), tf.constant([[*ITEM_IDS, "unknown", ""]])
    for index in (None, InvertedFileIndex(item_scores(model, VOCABULARY), num_cells=4)):
        signatures = Recommender(model, VOCABULARY, len(ITEM_IDS), index).signatures()
        for answer in (signatures["serving_default"](histories), signatures["rank"](histories, ids)):
            assert np.isfinite(answer["scores"]).all()


def test_the_missing_score_is_json_and_float32() -> None:
    """TF Serving writes six digits if they read back as the same float32."""
    written = f"{np.float32(MISSING_SCORE):g}"
    assert written == "-3.4e+38"
    assert np.float32(json.loads(written)) == np.float32(MISSING_SCORE) == MISSING_SCORE
    assert np.finfo(np.float32).min < MISSING_SCORE


def test_many_exclusions_are_exact(served: Callable) -> None:
    many = [f"unknown {number}" for number in range(20_000)] + list(ITEM_IDS[:-3])
    (item_ids,), (scores,) = rows_of(served("recommend", item_ids=[["a "]], excluded_item_ids=[many], k=5))
    assert set(item_ids) == {*ITEM_IDS[-3:-1], ""}
    assert (scores > MISSING_SCORE).sum() == 2
