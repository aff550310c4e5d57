"""What is served: a SavedModel, saved, loaded again and held against plain Python."""

import json
import pathlib
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorflow.core.protobuf import saved_model_pb2

from bert4rec_tf.config import Config, DataConfig, ModelConfig
from bert4rec_tf.errors import InputError
from bert4rec_tf.model import Bert4Rec, build_model
from bert4rec_tf.model_dir import Checkpoints, Progress, open_model_dir
from bert4rec_tf.serving import Recommender, export
from bert4rec_tf.vocabulary import NUM_SPECIAL_IDS, Vocabulary
from tfrecords.manifest import Manifest

CONFIG = Config(
    data=DataConfig(max_seq_length=6), model=ModelConfig(hidden_size=8, num_heads=2, num_layers=2, feed_forward_size=16)
)
MAX_SEQ_LENGTH = CONFIG.data.max_seq_length
TOP_K = 5
ITEM_IDS = (
    "tab\tbed", "line\nend", "\u2028", " ", "0", "🍕", "👩\u200d👧", "\u00e9", "e\u0301", "[MASK]", "[PAD]", "[UNK]",
    "nul\0", "\0", "x" * 10_240, '"quoted\\"', "ひ", "a", "A", "a ",
)  # fmt: skip
# Many counts are equal, so popularity ties are common.
VOCABULARY = Vocabulary(ITEM_IDS, np.array([9, 9, 8, 5, 5, 5, 5] + [2] * 8 + [0] * 5), (None,) * len(ITEM_IDS))
UNKNOWN = ["unknown", "tab", "E\u0301", "x" * 10_239, "nul", "\ufeff0"]

Answer = tuple[list[list[str]], np.ndarray]
Recommend = Callable[[list[list[str]]], Answer]


@pytest.fixture(scope="module")
def model() -> Bert4Rec:
    model = build_model(CONFIG.model, VOCABULARY.size, MAX_SEQ_LENGTH)
    generator = np.random.default_rng(1)
    for variable in model.trainable_variables:
        centre = 1.0 if "gamma" in variable.name else 0.0
        variable.assign(centre + generator.uniform(-1, 1, variable.shape))
    return model


@pytest.fixture(scope="module")
def score(model: Bert4Rec) -> Callable[[tf.Tensor], tf.Tensor]:
    return tf.function(model.score_next_item, input_signature=[tf.TensorSpec([1, None], tf.int32)])


@pytest.fixture(scope="module")
def saved(model: Bert4Rec, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("serving") / "saved"
    recommender = Recommender(model, VOCABULARY, TOP_K)
    tf.saved_model.save(recommender, str(path), signatures={"serving_default": recommender.recommend})
    return path


@pytest.fixture(scope="module")
def recommend(saved: pathlib.Path) -> Recommend:
    """The loaded signature, from lists of ids to lists of ids and scores."""
    loaded = tf.saved_model.load(str(saved))
    return lambda rows: answer(loaded.signatures["serving_default"], rows)


@pytest.fixture(scope="module")
def recommend_all(model: Bert4Rec) -> Recommend:
    """Four places more than there are items."""
    recommender = Recommender(model, VOCABULARY, len(ITEM_IDS) + 4)
    return lambda rows: answer(recommender.recommend, rows)


def answer(signature: Callable, rows: list[list[str]]) -> Answer:
    # Through bytes: an array of str would lose trailing NULs.
    flat = [item_id.encode() for row in rows for item_id in row]
    request = tf.reshape(tf.constant(flat, tf.string), [len(rows), len(rows[0]) if rows else 0])
    outputs = signature(item_ids=request)
    assert set(outputs) == {"item_ids", "scores"}
    assert outputs["item_ids"].shape == outputs["scores"].shape
    item_ids = [[item_id.decode() for item_id in row] for row in outputs["item_ids"].numpy().tolist()]
    return item_ids, outputs["scores"].numpy()


def rectangle(rows: list[list[str]], side: str) -> list[list[str]]:
    length = max(map(len, rows), default=0)
    return [row + [""] * (length - len(row)) if side == "right" else [""] * (length - len(row)) + row for row in rows]


@st.composite
def requests(draw: st.DrawFn) -> list[list[str]]:
    """Up to four histories of known and unknown ids, repeated ones and "" anywhere, up to three times N long."""
    few_ids = draw(st.lists(st.sampled_from([*ITEM_IDS, *UNKNOWN, ""]), min_size=1, unique=True))
    history = st.lists(st.sampled_from(few_ids), max_size=3 * MAX_SEQ_LENGTH)
    return rectangle(draw(st.lists(history, min_size=1, max_size=4)), draw(st.sampled_from(["left", "right"])))


def scores_by_hand(score: Callable[[tf.Tensor], tf.Tensor], history: list[str]) -> dict[str, float]:
    """The score of every item that is not in the history."""
    known = [ITEM_IDS.index(item_id) + NUM_SPECIAL_IDS for item_id in history if item_id in ITEM_IDS]
    scores = VOCABULARY.log_popularity()
    if known:
        scores = score(tf.constant([known])).numpy()[0]
    by_id = dict(zip(ITEM_IDS, scores[NUM_SPECIAL_IDS:].tolist(), strict=True))
    return {item_id: score for item_id, score in by_id.items() if item_id not in set(history)}


def test_signature_keeps_its_contract(saved: pathlib.Path) -> None:
    loaded = tf.saved_model.load(str(saved))
    assert list(loaded.signatures) == ["serving_default"]
    signature = loaded.signatures["serving_default"]
    _, inputs = signature.structured_input_signature
    assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in inputs.items()} == {
        "item_ids": (tf.string, [None, None])
    }
    outputs = signature.structured_outputs
    assert {name: (spec.dtype, spec.shape.as_list()) for name, spec in outputs.items()} == {
        "item_ids": (tf.string, [None, TOP_K]),
        "scores": (tf.float32, [None, TOP_K]),
    }


def test_graph_has_no_xla_and_no_python(saved: pathlib.Path) -> None:
    (graph,) = saved_model_pb2.SavedModel.FromString((saved / "saved_model.pb").read_bytes()).meta_graphs
    functions = graph.graph_def.library.function
    nodes = [*graph.graph_def.node, *(node for function in functions for node in function.node_def)]
    assert len(nodes) > 100
    for place in [*functions, *nodes]:
        assert not place.attr["_XlaMustCompile"].b
    assert not {node.op for node in nodes if "Xla" in node.op or "PyFunc" in node.op}


@settings(deadline=None, max_examples=80)
@given(rows=requests())
def test_answers_equal_plain_python(score: Callable, recommend: Recommend, rows: list[list[str]]) -> None:
    all_item_ids, all_scores = recommend(rows)
    for history, item_ids, scores in zip(rows, all_item_ids, all_scores, strict=True):
        expected = scores_by_hand(score, history)
        found = [item_id for item_id in item_ids if item_id]
        assert len(found) == min(TOP_K, len(expected))
        assert item_ids == found + [""] * (TOP_K - len(found)), "what is missing comes last"
        assert len(set(found)) == len(found)
        assert set(found) <= set(expected), "never a special, never a seen item"
        assert np.all(scores[len(found) :] == -np.inf)
        assert np.all(np.isfinite(scores[: len(found)]))
        assert np.all(np.diff(scores[: len(found)]) <= 0)
        best = sorted(expected.values(), reverse=True)[:TOP_K]
        np.testing.assert_allclose(scores[: len(found)], best, atol=1e-4)
        np.testing.assert_allclose([expected[item_id] for item_id in found], best, atol=1e-4)


@pytest.mark.parametrize("history", [[], [""], ["", "", ""], ["unknown"], ["", "unknown", "nul"]])
def test_without_a_known_item_popularity_answers(recommend: Recommend, history: list[str]) -> None:
    item_ids, scores = recommend([history])
    assert item_ids == [list(ITEM_IDS[:TOP_K])], "ties by the order of the vocabulary"
    np.testing.assert_array_equal(scores[0], VOCABULARY.log_popularity()[NUM_SPECIAL_IDS:][:TOP_K])


def test_no_column_and_no_row(recommend: Recommend) -> None:
    item_ids, scores = recommend([[], [], []])
    assert item_ids == [list(ITEM_IDS[:TOP_K])] * 3
    assert np.isfinite(scores).all()
    item_ids, scores = recommend([])
    assert item_ids == []
    assert scores.shape == (0, TOP_K)


def test_the_last_items_that_fit_are_the_context_and_all_are_seen(recommend_all: Recommend) -> None:
    history = [*ITEM_IDS[3:15], "unknown", "a", "a", "unknown", ""]
    known = [item_id for item_id in history if item_id in ITEM_IDS]
    answers = []
    for row in (history, known[-(MAX_SEQ_LENGTH - 1) :]):
        (item_ids,), (scores,) = recommend_all([row])
        answers.append(dict(zip(item_ids, scores, strict=True)))
    whole, last = answers
    assert set(whole) == {*ITEM_IDS, ""} - set(history) | {""}
    for item_id in set(whole) - {""}:
        assert whole[item_id] == pytest.approx(last[item_id], abs=1e-5)


def test_a_row_is_answered_as_if_it_were_alone(recommend: Recommend) -> None:
    rows = [["0", "a", "A"], ["[MASK]"], list(ITEM_IDS[:14]), ["unknown"], [], ["🍕", "", "é", "0"]]
    together, scores = recommend(rectangle(rows, "left"))
    for index, row in enumerate(rows):
        alone, alone_scores = recommend([row])
        assert together[index] == alone[0]
        np.testing.assert_allclose(scores[index], alone_scores[0], atol=1e-5)


def test_ids_are_compared_byte_by_byte(recommend_all: Recommend) -> None:
    # NFC is not NFD, "[MASK]" is an item like any other, and "nul" is not "nul" with a NUL after it.
    for item_id in ITEM_IDS:
        (item_ids,), _ = recommend_all([[item_id]])
        assert set(item_ids) == {*ITEM_IDS, ""} - {item_id}


def test_more_places_than_items_are_filled_up(recommend_all: Recommend) -> None:
    (item_ids, of_none), (scores, scores_of_none) = recommend_all(rectangle([["a", "0"], list(ITEM_IDS)], "right"))
    left = len(ITEM_IDS) - 2
    assert sorted(item_ids[:left]) == sorted(set(ITEM_IDS) - {"a", "0"})
    assert np.isfinite(scores[:left]).all()
    assert item_ids[left:] == [""] * 6
    assert np.all(scores[left:] == -np.inf)
    assert of_none == [""] * len(of_none), "everything was seen"
    assert np.all(scores_of_none == -np.inf)


def test_export_writes_a_whole_version_above_all_others(
    model: Bert4Rec, recommend: Recommend, tmp_path: pathlib.Path
) -> None:
    model_dir, export_dir = tmp_path / "model", tmp_path / "exports"
    manifest = Manifest(CONFIG, {}, {"items": len(ITEM_IDS)}, (), VOCABULARY.sha256(), {"train": ()})
    open_model_dir(model_dir, CONFIG, manifest, VOCABULARY)
    Checkpoints(model_dir, {"model": model, "progress": Progress(1)}, to_keep=1).save(best=True)
    from_the_future = export_dir / "99999999999"
    from_the_future.mkdir(parents=True)
    version = export(str(model_dir), str(export_dir), TOP_K)
    assert version == export_dir / "100000000000"
    assert sorted(export_dir.iterdir()) == [version, from_the_future]
    assert Vocabulary.load(version / "assets.extra").item_ids == ITEM_IDS
    described = json.loads((version / "assets.extra" / "metadata.json").read_text())
    assert described["top_k"] == TOP_K
    assert Config.from_dict(described["config"]) == CONFIG
    rows = [["a", "🍕", "tab\tbed"]]
    item_ids, scores = answer(tf.saved_model.load(str(version)).signatures["serving_default"], rows)
    expected_ids, expected_scores = recommend(rows)
    assert item_ids == expected_ids
    np.testing.assert_allclose(scores, expected_scores, atol=1e-5)


@pytest.mark.parametrize("top_k", [0, -1])
def test_export_refuses_a_top_k_below_one(tmp_path: pathlib.Path, top_k: int) -> None:
    with pytest.raises(InputError, match="top_k"):
        export(str(tmp_path), str(tmp_path / "exports"), top_k)


def test_export_refuses_a_directory_without_a_model(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="model_dir"):
        export(str(tmp_path), str(tmp_path / "exports"), TOP_K)
    assert not (tmp_path / "exports").exists()
