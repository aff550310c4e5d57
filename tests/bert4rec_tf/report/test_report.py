"""The report: its content, the escaping of untrusted text, and that the page loads no other file."""

import dataclasses
import math
import pathlib
import re

import numpy as np
import pytest
from markupsafe import Markup

from bert4rec_tf import __version__
from bert4rec_tf.code_version import git_state
from bert4rec_tf.evaluation.comparison import Run
from bert4rec_tf.evaluation.metrics import NO_RANK
from bert4rec_tf.evaluation.results import metrics_json
from bert4rec_tf.inputs.user_histories import read_histories
from bert4rec_tf.report import page
from bert4rec_tf.report.charts import Measured, bars, curve, dots, heat_map, whiskers
from bert4rec_tf.report.evaluated_model import Evaluation
from bert4rec_tf.report.example_users import spread_over_ranks, with_long_histories
from bert4rec_tf.report.item_map import item_map, principal_plane, read_item_groups
from bert4rec_tf.report.learning_curves import learning_curves, read_history
from bert4rec_tf.report.markup import element, to_markup
from bert4rec_tf.report.number_format import short_number
from bert4rec_tf.report.report import write_report
from bert4rec_tf.report.slices_section import head_and_tail
from tests.support.evaluated_models import CONFIG, NASTY, history_lines, small_evaluation
from tests.support.html_page import Page
from tests.support.user_ranks_by_hand import ranks_of_users
from tfrecords.errors import InputError
from tfrecords.vocabulary import NUM_SPECIAL_IDS, PAD_ID, Vocabulary

SECTIONS = ["result", "learning", "slices", "attention", "items", "users", "run"]


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    return small_evaluation(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def report(evaluation: Evaluation) -> str:
    path = evaluation.data_dir.with_name("out") / "report.html"
    write_report(path, evaluation)
    assert [file.name for file in path.parent.iterdir()] == [path.name], "written by rename"
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(report: str) -> Page:
    return Page(report)


def test_every_section_is_there(read: Page) -> None:
    ids = [attributes["id"] for _, attributes in read.tags if "id" in attributes]
    assert ids == SECTIONS
    assert [attributes["href"] for tag, attributes in read.tags if tag == "a"] == [f"#{name}" for name in SECTIONS]
    assert read.texts_of("h1") == ["<i>model: BERT4Rec, Cloze, test split"]
    assert [text for text in read.texts_of("h3") if "Layer" in text] == ["Layer 1", "Layer 2", "Layer 3"]
    assert len([text for text in read.texts_of("figcaption") if "Head" in text]) == 6
    assert len(read.texts_of("article")) == 10


def test_the_header_names_time_code_and_data(evaluation: Evaluation, read: Page) -> None:
    facts = dict(zip(read.texts_of("dt"), read.texts_of("dd"), strict=True))
    commit = git_state().get("git_commit", "unknown, not run from a checkout")
    assert facts.pop("commit").startswith(commit[:12])
    assert facts == {
        "evaluated": f"{evaluation.evaluated_at:%Y-%m-%d %H:%M} UTC",
        "users": "80, test split",
        "data": f"data: {evaluation.manifest.counts['events']:,} events, 40 items",
        "package": f"bert4rec_tf {__version__}",
    }


def test_head_and_tail_are_named(read: Page) -> None:
    counts = np.array([500, 300, 200, *[100] * 5, *[30] * 10, *[1] * 200])
    assert head_and_tail(counts) == (
        "Five groups of items hold about a fifth of the training events each. The head is the most popular item, with "
        "500 events; the tail is the 206 least popular items, with 1 to 30 events each."
    )
    assert head_and_tail(np.array([7])).endswith("The head is the most popular item, with 7 events.")
    assert head_and_tail(np.array([2, 2, 2, 2, 2])).endswith("; the tail is the least popular item, with 2 events.")
    labels = [text for text in read.texts_of("text") if "events ·" in text]
    assert {label.partition(" · ")[0] for label in labels} == {"head", "2nd fifth", "3rd fifth", "4th fifth", "tail"}


def test_the_page_fits_a_phone_and_fills_a_wide_screen(report: str) -> None:
    """Checks the rules that keep the page within 360 pixels, 336 without the margins, and without empty columns."""
    style = report[report.index("<style>") : report.index("</style>")]
    columns = re.findall(r"grid-template-columns: ([^;]*);", style)
    assert len(columns) > 5
    for rule in columns:
        assert re.fullmatch(r"repeat\(auto-fi(t|ll), minmax\(min\(100%, .*\), 1fr\)\)", rule), rule
    for width in re.findall(r"(?<![a-z-])(?:min-)?width: ([0-9.]+)px", style.replace("(min-width", "")):
        assert float(width) <= 328, "a fixed width"
    assert re.search(r"body {[^}]*max-width: 1680px", style)
    assert not re.search(r"<(?:svg|td|th|table)[^>]* width=", report)
    tables = report.count("<table")
    assert tables == len(re.findall(r'<div class="scroll"><table', report)) > 5
    assert ".scroll { overflow-x: auto;" in style


def test_the_page_loads_no_other_file(report: str, read: Page) -> None:
    assert not {tag for tag, _ in read.tags} & {"script", "link", "img", "iframe", "object", "base", "image", "use"}
    for tag, attributes in read.tags:
        assert not attributes.keys() & {"src", "srcset", "data", "onload", "onerror", "xmlns"}, tag
        assert attributes.get("href", "#").startswith("#")
    assert not re.search(r"https?:|url\(|@import", report)
    policy = next(attributes for _, attributes in read.tags if "http-equiv" in attributes)
    assert policy["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_titles_are_escaped(report: str, read: Page, evaluation: Evaluation) -> None:
    for title in NASTY[:3]:
        assert title not in report
        assert any(title in text for text in read.texts_of("span")), "in the users' lists"
        assert any(title in text for text in read.texts_of("title")), "at the dots"
    assert any(text == "a\ufffd\ufffdb" for text in read.texts_of("span"))
    vocabulary = evaluation.vocabulary
    untitled = [item for item, title in zip(vocabulary.item_ids, vocabulary.titles, strict=True) if title is None]
    assert len(untitled) == 4
    for item_id in untitled:
        assert any(text.startswith(f"{item_id}, ") for text in read.texts_of("title")), "the id if there is no title"


def test_numbers_equal_the_metrics(read: Page, evaluation: Evaluation) -> None:
    metrics = evaluation.metrics
    for name in ("hr@1", "hr@5", "hr@10", "ndcg@5", "ndcg@10", "mrr"):
        shown = []
        for protocol in ("full", "sampled"):
            low, high = metrics[protocol]["ci95"][name]
            shown.append(f"{metrics[protocol][name]:.4f} [{low:.4f}, {high:.4f}]")
            assert f"{name.upper()}: {shown[-1]}" in read.texts_of("title"), "the whiskers"
        assert [name.upper(), *shown] in read.rows
    assert ["", "all items", "7 negatives"] in read.rows
    facts = {row[0]: row[1] for row in read.rows if len(row) == 2}
    assert facts["weights"] == "of step 20, after 1.5 minutes of training"
    assert facts["on"] == "A & B, 2 cores, 1 GPU, Python 3, TensorFlow 2"
    assert facts["evaluated"] == "80 users, test split"
    assert facts["records"] == f"data, manifest sha256 {evaluation.manifest.sha256()[:12]}"
    for name, value in metrics["catalogue"].items():
        assert facts[name].startswith(f"{value:.4f}: ")
    assert [group["cold"] for group in metrics["slices"]["cold_targets"]] == [False]
    assert not any("whether a training event has the target" in text for text in read.texts_of("title"))
    for name, groups in metrics["slices"].items():
        for group in groups if name != "cold_targets" else ():  # these would only repeat the result of all users
            low, high = group["full"]["ci95"]["ndcg@10"]
            value = group["full"]["ndcg@10"]
            (label,) = {
                text.partition(": ")[0]
                for text in read.texts_of("title")
                if text.endswith(f"{group['users']:,} users: {value:.4f} [{low:.4f}, {high:.4f}]")
            }
            assert (f"{group['from']}" if "from" in group else "repeat") in label


def test_changed_settings_are_listed_first(report: str) -> None:
    differ, folded = report.split("<details>")
    given = {"data.max_seq_length", "data.min_user_events", "data.num_negatives", "model.hidden_size",
             "model.num_layers", "model.initializer_range"}  # fmt: skip
    names = {f"{section}.{field}" for section, fields in CONFIG.to_dict().items() for field in fields}
    for name in names:
        cell = f"<th>{name}</th>"
        assert (cell in differ, cell in folded) == (name in given, name not in given), name


def test_user_cards_show_history_target_and_hits(report: str, evaluation: Evaluation) -> None:
    ranks, vocabulary = evaluation.ranks, evaluation.vocabulary
    rows = spread_over_ranks(ranks)
    histories = read_histories(set(ranks.user_ids), evaluation.data_dir, evaluation.manifest, "test")
    assert len(histories) == len(ranks.user_ids)
    cards = re.findall(r"<article.*?</article>", report, re.DOTALL)

    def name(item: int) -> str:
        title = vocabulary.titles[item - NUM_SPECIAL_IDS] or vocabulary.item_ids[item - NUM_SPECIAL_IDS]
        return title.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")

    assert len(cards) == len(rows)
    for row, card in zip(rows, cards, strict=True):
        shown = Page(card)
        recommended = [item for item in ranks.recommended[row].tolist() if item != PAD_ID]
        history, target = histories[ranks.user_ids[row]].item_ids, ranks.targets[row]
        assert len(history) == ranks.history_lengths[row]
        listed = [f"{name(item)}{' ✓' if item == target else ''}" for item in recommended]
        assert shown.texts_of("li") == [*map(name, history[-10:]), *listed]
        assert shown.texts_of("h3") == [f"User {ranks.user_ids[row]}"]
        assert f"rank {ranks.full[row]} of all items, {ranks.sampled[row]} among the negatives" in shown.texts_of("p")
        hit = ranks.full[row] <= 10
        assert len(shown.texts_of("mark")) == (2 if hit else 0)
        assert f"Next was {name(target)}{' ✓' if hit else ''}" in shown.texts_of("p")


def test_the_same_evaluation_gives_the_same_page(report: str, evaluation: Evaluation, tmp_path: pathlib.Path) -> None:
    write_report(tmp_path / "again.html", evaluation)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == report


def test_items_are_coloured_by_genre(evaluation: Evaluation, tmp_path: pathlib.Path) -> None:
    item_ids = evaluation.vocabulary.item_ids
    rows = [f"{item_id}\tx\t{'Rock & Roll|Jazz' if index % 2 else 'Jazz'}" for index, item_id in enumerate(item_ids)]
    rows[0] = f"{item_ids[0]}\tx\t"
    (tmp_path / "genres.tsv").write_text("\n".join(["item_id\ttitle\tgenres", *rows]) + "\n")
    groups = read_item_groups(str(tmp_path / "genres.tsv"), evaluation.vocabulary)
    write_report(tmp_path / "report.html", evaluation, groups)
    read = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert read.texts_of("li")[:3] == ["Rock & Roll (20)", "Jazz (19)", "other or unknown (1)"]
    colours = [attributes["class"] for tag, attributes in read.tags if tag == "circle" and "r" in attributes]
    assert [colours.count(f"g{group}") for group in (0, 1, 8)] == [20, 19, 1]


def test_users_without_enough_negatives_are_counted(evaluation: Evaluation, tmp_path: pathlib.Path) -> None:
    ranks = dataclasses.replace(evaluation.ranks, sampled=np.full_like(evaluation.ranks.sampled, NO_RANK))
    metrics = metrics_json(ranks, {}, evaluation.manifest, evaluation.vocabulary, "test")
    left_out = dataclasses.replace(evaluation, ranks=ranks, metrics={**evaluation.metrics, **metrics})
    write_report(tmp_path / "report.html", left_out)
    read = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert "80 users with fewer than 7 negatives: ranked among all items only." in read.texts_of("p")
    assert [row[2] for row in read.rows if row[0] == "HR@10"] == ["-"]
    assert not [
        text
        for text in read.texts_of("figcaption")
        if "by" in text and "negatives" in text and "validation" not in text
    ]
    assert [text for text in read.texts_of("p") if "too few negatives" in text]


def test_item_groups_by_hand() -> None:
    item_ids = tuple(f"i{number}" for number in range(14))
    vocabulary = Vocabulary(item_ids, np.array([9, 3, 3, *[1] * 11]), (None,) * 14)
    table = np.random.default_rng(1).normal(size=[17, 4])
    popular = item_map(table, vocabulary)
    assert popular.groups == ["head", "2nd fifth", "3rd fifth", "4th fifth", "tail"]
    assert popular.group_of.tolist() == [0, 1, 2, 2, 3, 3, 3, 3, 3, 4, 4, 4, 4, 4]
    genres = {item_id: f"genre {number // 2:02}" for number, item_id in enumerate(item_ids[2:12])}
    few = item_map(table, vocabulary, genres)
    assert few.groups == [*sorted(set(genres.values())), few.rest]
    assert few.group_of.tolist() == [5, 5, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    all_differ = item_map(table, vocabulary, {item_id: item_id for item_id in item_ids})
    assert len(all_differ.groups) == 9
    assert (all_differ.group_of == 8).sum() == 6
    assert item_map(table, vocabulary, dict.fromkeys(item_ids, "one")).rest is None


def test_principal_plane_equals_eigenvectors_of_the_covariance() -> None:
    vectors = np.random.default_rng(2).normal(size=[50, 6]) * [5, 1, 3, 1, 1, 0.5] + 7
    coordinates, shares = principal_plane(vectors.astype(np.float32))
    values, axes = np.linalg.eigh(np.cov(vectors.T))
    np.testing.assert_allclose(shares, values[::-1][:2] / values.sum(), rtol=1e-5)
    for column, axis in zip(coordinates.T, axes.T[::-1], strict=False):
        axis = axis * np.sign(axis[np.abs(axis).argmax()])
        np.testing.assert_allclose(column, (vectors - vectors.mean(axis=0)) @ axis, atol=1e-4)
    for small in (np.ones([1, 3]), np.ones([5, 1]), np.ones([4, 4])):
        coordinates, shares = principal_plane(small)
        assert coordinates.shape == (len(small), 2)
        assert not coordinates.any()
        assert not shares.any()


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        (b"item_id\tkind\na\tb\n", "a TSV file with the columns item_id and genre. Received: .* with item_id, kind"),
        (b"", "a TSV file with the columns item_id and genre. Received: .* with none"),
        (b"item_id\tgenre\nnobody\tb\n", "items of --data_dir. Received: .* with 1 items, none of them"),
        (b"item_id\tgenre\n\xff\tb\n", "a readable TSV file in UTF-8"),
        (None, "a readable TSV file in UTF-8"),
    ],
)
def test_bad_item_groups_are_refused(
    evaluation: Evaluation, tmp_path: pathlib.Path, content: bytes | None, rule: str
) -> None:
    if content is not None:
        (tmp_path / "groups.tsv").write_bytes(content)
    with pytest.raises(InputError, match=f"--item_groups must name {rule}.*Fix: "):
        read_item_groups(str(tmp_path / "groups.tsv"), evaluation.vocabulary)


def test_learning_curves_leave_out_unknown_values(tmp_path: pathlib.Path) -> None:
    assert read_history(tmp_path) == []
    (tmp_path / "history.jsonl").write_text(history_lines([10, 20, 30], [3, 2, math.nan]))
    charts = learning_curves(read_history(tmp_path), {"full": "f", "sampled": "s"}, 20)
    drawn = [Page(chart.svg) for chart in charts]
    assert [chart.caption for chart in charts] == [
        f"{what}, by {along}"
        for along in ("steps", "minutes")
        for what in ("validation NDCG@10, f", "validation NDCG@10, s", "loss")
    ]
    assert [sum(tag == "circle" for tag, _ in figure.tags) for figure in drawn] == [3, 3, 2] * 2
    assert "step 20, 0.2 min: 0.0200 [0.0100, 0.0300]" in drawn[0].texts_of("title")
    assert all(any(attributes.get("class") == "marked" for _, attributes in figure.tags) for figure in drawn)
    for bad in ('{"step": 1}', "[", "7"):
        (tmp_path / "history.jsonl").write_text(history_lines([10], [1]) + bad + "\n")
        with pytest.raises(InputError, match=r"history.jsonl, line 2 must hold a validation.*Fix: "):
            read_history(tmp_path)


def test_a_run_without_history_has_no_curves(evaluation: Evaluation, tmp_path: pathlib.Path) -> None:
    bare = Evaluation(**{**vars(evaluation), "model_dir": tmp_path})
    write_report(tmp_path / "report.html", bare)
    assert "has no history.jsonl" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_examples_are_spread_over_ranks() -> None:
    ranks = ranks_of_users([1, 1, 1, 50, 1000, 3, 10, 2, 400, 90])
    assert [ranks.full[row] for row in spread_over_ranks(ranks, 4)] == [1, 10, 90, 1000]
    assert spread_over_ranks(ranks, 4)[0] == 0, "among equals, the lowest user id"
    everyone = spread_over_ranks(ranks, 20)
    assert sorted(everyone) == list(range(10))
    assert [ranks.full[row] for row in everyone] == sorted(ranks.full)


def test_attention_averages_users_with_long_histories() -> None:
    ranks = ranks_of_users([1] * 8, history_lengths=[30, 2, 19, 5, 7, 19, 3, 1])
    assert with_long_histories(ranks, 2, 19) == [0, 5]
    assert with_long_histories(ranks, 5, 19) == [0, 2, 5], "a quarter of the users have 19 or more"
    assert with_long_histories(ranks, 200, 25) == [0, 2, 5], "too few users have 25"
    assert with_long_histories(ranks_of_users([1]), 200, 19) == [0]


def test_charts_stay_within_their_frame() -> None:
    rows = [Measured("a", 0.5, 0.2, 0.9), Measured("b", 0.0, 0.0, 0.0)]
    flat = [Measured("a", 4.0, 4.0, 4.0)]
    charts = [
        whiskers(rows, "x"),
        whiskers(rows[1:], "x"),
        bars(rows, "x"),
        curve([1, 2], rows, "steps", "x", 2),
        curve([0], flat, "steps", "x"),
        heat_map(np.eye(4), ["", "", "-1", "M"], "x"),
        heat_map(np.zeros([1, 1]), ["M"], "x"),
        dots(np.array([[0, 0], [3, 1.0]]), [0, 1], ["a", "b"], "p", "x"),
        dots(np.zeros([2, 2]), [0, 0], ["", ""], "p", "x"),
    ]
    for chart in charts:
        read = Page(chart)
        _, _, width, height = map(float, str(read.tags[0][1]["viewbox"]).split())
        for _, attributes in read.tags:
            for key, most in (("x", width), ("x1", width), ("x2", width), ("cx", width), ("y", height), ("cy", height)):
                assert 0 <= float(attributes.get(key) or 0) <= most, (key, attributes)
    assert [short_number(value) for value in (0, 0.05, 250, 9000, 40_000, 2_500_000)] == [
        "0", "0.05", "250", "9000", "40k", "2.5M"
    ]  # fmt: skip


def test_nearly_equal_values_have_one_shade() -> None:
    def shades(values: list[float]) -> list[float]:
        read = Page(heat_map(np.array([values, values[::-1]]), ["", "M"], "x"))
        return [float(attributes["fill-opacity"] or 0) for tag, attributes in read.tags if tag == "path"]

    assert shades([0.0, 0.4]) == shades([0.1, 0.4]) == [0, 1]
    assert shades([0.0153, 0.01531]) == [1]
    assert 0.4 < shades([0.3, 0.4])[0] < 0.6


def test_text_is_escaped() -> None:
    assert to_markup("<") + to_markup(Markup("<")) + to_markup(1) == "&lt;<1"
    assert element("p", "a", Markup("<b>"), class_="\"'") == '<p class="&#34;&#39;">a<b></p>'
    assert element("p", "\ud800\x00\n") == "<p>\ufffd\ufffd\n</p>"
    assert to_markup(Markup("\ud800")) == "\ufffd", "markup cannot hold it either"


def test_templates_escape_every_value(evaluation: Evaluation, tmp_path: pathlib.Path) -> None:
    """Fills text of many kinds with a title that would leave its element, or its attribute."""
    nasty = "</title><script \ud800'\"\x00"
    facts = {"cpu": nasty, "cores": nasty, "python": nasty, "tensorflow": nasty}
    second = Run.from_evaluation(nasty, evaluation.metrics, evaluation.ranks, evaluation.vocabulary)
    hostile = dataclasses.replace(
        evaluation,
        metrics=evaluation.metrics | {"hardware": evaluation.metrics["hardware"] | facts},
        second_run=second,
    )
    item_groups = dict.fromkeys(evaluation.vocabulary.item_ids, nasty)
    write_report(tmp_path / "report.html", hostile, item_groups)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<script" not in text
    read, written = Page(text), nasty.replace("\ud800", "\ufffd").replace("\x00", "\ufffd")
    assert text.count("</title>") == len(read.texts_of("title"))
    for tag in ("title", "th", "td", "li", "strong", "text"):
        assert any(written in found for found in read.texts_of(tag)), tag
    templates = pathlib.Path(page.__file__).with_name("templates")
    for template in templates.iterdir():
        assert not re.search(r"=\{\{|\|\s*safe\b", template.read_text(encoding="utf-8")), "an attribute without quotes"
