"""Writes one HTML file about an evaluated model: whether it is good, and its curves, groups, items and users."""

import pathlib

from bert4rec_tf import __version__
from bert4rec_tf.code_version import git_state
from bert4rec_tf.inputs.user_histories import read_histories
from bert4rec_tf.report.attention_ages import ages_charts, attention_ages
from bert4rec_tf.report.attention_maps import SLOTS, attention_content, attention_maps
from bert4rec_tf.report.evaluated_model import Evaluation
from bert4rec_tf.report.example_users import HISTORY_SHOWN, spread_over_ranks, users_content, with_long_histories
from bert4rec_tf.report.headline import rivals
from bert4rec_tf.report.item_map import item_map, items_content
from bert4rec_tf.report.item_neighbours import shared_categories
from bert4rec_tf.report.learning_curves import learning_content, read_history
from bert4rec_tf.report.number_format import counted
from bert4rec_tf.report.page import render_page
from bert4rec_tf.report.result_section import result_content
from bert4rec_tf.report.run_section import run_content
from bert4rec_tf.report.slices_section import slices_content
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
    attending = [histories[ranks.user_ids[row]] for row in attention_users]
    maps, ages = attention_maps(model, attending), attention_ages(model, attending)
    table = model.embedding.item_table.numpy()
    items = item_map(table, evaluation.vocabulary, item_groups)
    shared = shared_categories(table, evaluation.trained.item_features)
    page = render_page(
        f"{evaluation.model_dir.resolve().name}: {evaluation.trained.config.model.model_name}, "
        f"{evaluation.metrics['split']} split",
        _facts(evaluation),
        result=result_content(evaluation, rivals(evaluation)),
        learning=learning_content(history, evaluation),
        slices=slices_content(evaluation),
        attention=attention_content(maps, ages_charts(ages)),
        items=items_content(items, evaluation.vocabulary, item_groups is None, shared),
        users=users_content(examples, ranks, histories, evaluation.vocabulary),
        run=run_content(evaluation),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, page)


def _facts(evaluation: Evaluation) -> dict[str, str]:
    """When, with which code and on what the model was evaluated."""
    metrics, git = evaluation.metrics, git_state()
    counts, changed = metrics["data"]["counts"], " with changes" if git.get("git_changed") else ""
    data = f"{evaluation.data_dir.resolve().name}: {counts['events']:,} events, {counted(counts['items'], 'item')}"
    return {
        "evaluated": f"{evaluation.evaluated_at:%Y-%m-%d %H:%M} UTC",
        "users": f"{metrics['users']:,}, {metrics['split']} split",
        "data": data,
        "package": f"bert4rec_tf {__version__}",
        "commit": f"{git['git_commit'][:12]}{changed}" if git else "unknown, not run from a checkout",
    }
