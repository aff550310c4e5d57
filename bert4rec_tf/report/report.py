"""Writes one HTML file about an evaluated model: its run, metrics, learning curves, attention, items and examples."""

import pathlib

from bert4rec_tf.inputs.user_histories import read_histories
from bert4rec_tf.report.attention_maps import SLOTS, attention_maps, attention_section
from bert4rec_tf.report.evaluated_model import Evaluation
from bert4rec_tf.report.example_users import HISTORY_SHOWN, spread_over_ranks, users_section, with_long_histories
from bert4rec_tf.report.headline import headline_section, rivals
from bert4rec_tf.report.html import page
from bert4rec_tf.report.item_map import item_map, items_section
from bert4rec_tf.report.learning_curves import learning_section, read_history
from bert4rec_tf.report.metrics_section import metrics_section, slices_section
from bert4rec_tf.report.run_section import run_section
from tfrecords.errors import check_local
from tfrecords.files import write_whole

_ATTENTION_USERS = 200


def write_report(path: pathlib.Path, evaluation: Evaluation, item_groups: dict[str, str] | None = None) -> None:
    """Writes the report, by rename.

    Args:
        path: the HTML file to write; its folder is made.
        evaluation: the model and its results.
        item_groups: group by raw item id, to colour the map of the items; None: colour by popularity.

    Raises:
        InputError: history.jsonl of the model directory is damaged, or the second run has other users.
    """
    check_local("report", path)
    history = read_history(evaluation.model_dir)
    ranks, model = evaluation.ranks, evaluation.trained.model
    examples, attention_users = spread_over_ranks(ranks), with_long_histories(ranks, _ATTENTION_USERS, SLOTS - 1)
    histories = read_histories(
        {ranks.user_ids[row] for row in (*examples, *attention_users)},
        evaluation.data_dir,
        evaluation.manifest,
        evaluation.metrics["split"],
        max(HISTORY_SHOWN, model.max_seq_length - 1),
    )
    maps = attention_maps(model, [histories[ranks.user_ids[row]] for row in attention_users])
    items = item_map(model.embedding.item_table.numpy(), evaluation.vocabulary, item_groups)
    name = evaluation.model_dir.resolve().name
    sections = [
        ("result", "Is the model good?", headline_section(evaluation, rivals(evaluation))),
        ("run", "The run", run_section(evaluation)),
        ("metrics", "Metrics", metrics_section(evaluation)),
        ("learning", "Learning", learning_section(history, evaluation)),
        ("slices", "Slices", slices_section(evaluation)),
        ("attention", "Attention", attention_section(maps)),
        ("items", "Items", items_section(items, evaluation.vocabulary, by_popularity=item_groups is None)),
        ("users", "Users", users_section(examples, ranks, histories, evaluation.vocabulary)),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page(f"{name}: BERT4Rec, {evaluation.metrics['split']} split", sections))
