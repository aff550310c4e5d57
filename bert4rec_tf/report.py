"""One HTML file on an evaluated model: what it is, how it ranks and learnt, what it looks at and recommends."""

import dataclasses
import pathlib
from typing import Any

from bert4rec_tf.attention_maps import SLOTS, attention_maps
from bert4rec_tf.charts import Measured, bars, short_number, whiskers
from bert4rec_tf.config import Config
from bert4rec_tf.example_users import histories_of, spread_over_ranks, with_long_histories
from bert4rec_tf.item_map import item_map
from bert4rec_tf.learning_curves import learning_curves, read_history
from bert4rec_tf.markup import Markup, element, together
from bert4rec_tf.metrics import METRICS
from bert4rec_tf.model_dir import TrainedModel
from bert4rec_tf.report_page import page
from bert4rec_tf.report_pictures import HISTORY_SHOWN, attention_section, items_section, users_section
from bert4rec_tf.user_ranks import Ranks
from tfrecords.errors import check_local
from tfrecords.files import write_whole
from tfrecords.manifest import Manifest
from tfrecords.vocabulary import Vocabulary

_ATTENTION_USERS = 200


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A model, the records it was asked, and what came out.

    Attributes:
        model_dir: of `trained`.
        data_dir: of `manifest` and `vocabulary`, whose titles are shown.
        trained, manifest, vocabulary: loaded from there.
        ranks: with the best items.
        metrics: from `metrics_json`, and "hardware".
    """

    model_dir: pathlib.Path
    data_dir: pathlib.Path
    trained: TrainedModel
    manifest: Manifest
    vocabulary: Vocabulary
    ranks: Ranks
    metrics: dict[str, Any]

    def protocols(self) -> dict[str, str]:
        """What each protocol ranks the target among."""
        return {"full": "all items", "sampled": f"{self.manifest.config.data.num_negatives} negatives"}


def write_report(path: pathlib.Path, evaluation: Evaluation, item_groups: dict[str, str] | None = None) -> None:
    """Writes the report, by rename.

    Args:
        path: of the HTML file; its folder is made.
        evaluation: what it is on.
        item_groups: group by raw item id, to colour the map of the items; None: by popularity.

    Raises:
        InputError: history.jsonl of the model directory is damaged.
    """
    check_local("report", path)
    history = read_history(evaluation.model_dir)
    ranks, model = evaluation.ranks, evaluation.trained.model
    examples, asked = spread_over_ranks(ranks), with_long_histories(ranks, _ATTENTION_USERS, SLOTS - 1)
    histories = histories_of(
        {ranks.user_ids[row] for row in (*examples, *asked)},
        evaluation.data_dir,
        evaluation.manifest,
        evaluation.metrics["split"],
        max(HISTORY_SHOWN, model.max_seq_length - 1),
    )
    maps = attention_maps(model, [histories[ranks.user_ids[row]] for row in asked])
    places = item_map(model.embedding.item_table.numpy(), evaluation.vocabulary, item_groups)
    name = evaluation.model_dir.resolve().name
    sections = [
        ("run", "The run", _run(evaluation)),
        ("metrics", "Metrics", _metrics(evaluation)),
        ("learning", "Learning", _learning(history, evaluation)),
        ("slices", "Slices", _slices(evaluation)),
        ("attention", "Attention", attention_section(maps)),
        ("items", "Items", items_section(places, evaluation.vocabulary, by_popularity=item_groups is None)),
        ("users", "Users", users_section(examples, ranks, histories, evaluation.vocabulary)),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page(f"{name}: BERT4Rec, {evaluation.metrics['split']} split", sections))


def _run(evaluation: Evaluation) -> Markup:
    trained, metrics = evaluation.trained, evaluation.metrics
    state, hardware, counts = trained.state, metrics["hardware"], metrics["data"]["counts"]
    ndcg = state["validation_ndcg@10"]
    config, defaults = trained.config.to_dict(), Config().to_dict()
    settings = [(section, field, value) for section in config for field, value in config[section].items()]
    differ = [(f"{a}.{b}", value) for a, b, value in settings if value != defaults[a][b]]
    equal = [(f"{a}.{b}", value) for a, b, value in settings if value == defaults[a][b]]
    devices = f"{hardware['cores']} cores, {_number(hardware['gpus'], 'GPU')}"
    facts = [
        ("model", evaluation.model_dir.resolve().name),
        ("weights", f"of step {state['step']:,}, after {state['elapsed_seconds'] / 60:.1f} minutes of training"),
        ("validation", "none by that step" if ndcg is None else f"NDCG@10 {ndcg:.4f} at that step, all items"),
        ("evaluated", f"{metrics['users']:,} users, {metrics['split']} split"),
        ("on", f"{hardware['cpu']}, {devices}, Python {hardware['python']}, TensorFlow {hardware['tensorflow']}"),
        ("records", f"{evaluation.data_dir.resolve().name}, manifest sha256 {metrics['data']['manifest_sha256'][:12]}"),
        ("log", f"{counts['events']:,} events, {counts['users']:,} users, {counts['items']:,} items"),
    ]
    settings_shown = element(
        "div",
        element("h3", "Settings that are not the defaults"),
        _pairs(differ, "settings") if differ else element("p", "None."),
        element("details", element("summary", f"{len(equal)} settings at their defaults"), _pairs(equal, "settings")),
    )
    return element("div", element("div", _pairs(facts)), settings_shown, class_="columns")


def _metrics(evaluation: Evaluation) -> Markup:
    metrics, protocols = evaluation.metrics, evaluation.protocols()
    head = element("tr", *(element("th", text) for text in ("", *protocols.values())))
    rows = [
        element("tr", element("th", name.upper()), *(element("td", *_cell(metrics[key], name)) for key in protocols))
        for name in METRICS
    ]
    charts = [
        _figure(f"{says}", whiskers([_measured(metrics[key], name, name.upper()) for name in METRICS], says))
        for key, says in protocols.items()
        if metrics[key]["mrr"] is not None
    ]
    unseen, repeats = metrics.get("unseen_users"), metrics["repeats"]
    rule = "count as missed, as they are never recommended" if metrics["drop_seen"] else "are ranked"
    left_out = metrics["sampled"]["users_left_out"]
    return together(
        element("p", "The mean over users, in brackets with its 95% interval.", class_="soft"),
        element(
            "p", f"{_number(left_out, 'user')} with fewer than {protocols['sampled']}: ranked among all items only."
        )
        if left_out
        else None,
        _charts([element("table", element("thead", head), element("tbody", *rows)), *charts]),
        unseen
        and element(
            "p",
            f"{_number(unseen['users'], 'user')} of whom nothing was trained on: "
            + ", ".join(
                f"NDCG@10 {unseen[key]['ndcg@10']:.4f} among {says}"
                for key, says in protocols.items()
                if unseen[key]["mrr"] is not None
            ),
        ),
        element(
            "p",
            f"The targets of {_number(repeats['users'], 'user')} ({repeats['share']:.1%}) stand in their own history "
            f"and {rule} (evaluation.drop_seen={str(metrics['drop_seen']).lower()}).",
        )
        if repeats["users"]
        else None,
    )


def _learning(history: list[dict[str, Any]], evaluation: Evaluation) -> Markup:
    if not history:
        return element("p", "The model directory has no history.jsonl.")
    step = evaluation.trained.state["step"]
    says = (
        f"{_number(len(history), 'validation')}. The dashed line marks the weights of this report, of step {step:,}; "
        "the bands are 95% intervals over the validation users. The loss is the mean since the validation "
        "before, or since the run was taken up."
    )
    return together(element("p", says, class_="soft"), _charts(learning_curves(history, evaluation.protocols(), step)))


def _slices(evaluation: Evaluation) -> Markup:
    slices, catalogue = evaluation.metrics["slices"], evaluation.metrics["catalogue"]
    charts = []
    for name, subject in (
        ("history_length", "length of the history"),
        ("target_popularity", "the target's popularity"),
        ("repeats", "whether the target stands in the history"),
    ):
        for key, protocol in evaluation.protocols().items():
            groups = [group for group in slices[name] if group[key]["mrr"] is not None]
            rows = [_measured(group[key], "ndcg@10", _group_label(name, group, key)) for group in groups]
            if rows:
                charts.append(_figure(f"NDCG@10 by {subject}, {protocol}", bars(rows, f"by {subject}, {protocol}")))
    facts = []
    for name, value in catalogue.items():
        what, _, k = name.partition("@")
        if what == "coverage":
            facts.append((name, f"{value:.4f}: the share of the items that at least one user is recommended in {k}"))
        elif value is not None:
            facts.append((name, f"{value:.4f}: mean bits of what is recommended; twice as rare is 1 bit more"))
    return together(
        element(
            "p",
            "Popularity groups hold a fifth of the training events each, from the head of the catalogue to its tail. "
            "Bars have their 95% intervals.",
            class_="soft",
        ),
        element("div", *charts, class_="charts pairs"),
        element("h3", "Catalogue"),
        _pairs(facts),
    )


def _group_label(name: str, group: dict[str, Any], protocol: str) -> str:
    users = _number(group[protocol].get("users", group["users"]), "user")
    if name == "history_length":
        return f"{group['from']}{'+' if group['to'] is None else '-' + str(group['to'])} items · {users}"
    if name == "repeats":
        return f"{'repeat' if group['repeat'] else 'no repeat'} · {users}"
    events = f"{_short(group['from'])}-{_short(group['to'])}"
    return f"{_number(group['items'], 'item')} of {events} events · {users}"


def _measured(metrics: dict[str, Any], name: str, label: str) -> Measured:
    return Measured(label, metrics[name], *metrics["ci95"][name])


def _cell(metrics: dict[str, Any], name: str) -> tuple[str | Markup, ...]:
    if metrics[name] is None:
        return ("-",)
    low, high = metrics["ci95"][name]
    return f"{metrics[name]:.4f} ", element("span", f"[{low:.4f}, {high:.4f}]", class_="ci")


def _number(number: int, what: str) -> str:
    return f"{_short(number)} {what}{'' if number == 1 else 's'}"


def _short(number: int) -> str:
    return f"{number:,}" if number < 10_000 else short_number(number)


def _pairs(rows: list[tuple[str, Any]], kind: str | None = None) -> Markup:
    written = (element("tr", element("th", name), element("td", _plain(value))) for name, value in rows)
    return element("table", element("tbody", *written), class_=kind)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _figure(caption: str, drawn: Markup) -> Markup:
    return element("figure", element("figcaption", caption), drawn)


def _charts(figures: list[Markup]) -> Markup:
    return element("div", *figures, class_="charts")
