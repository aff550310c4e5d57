"""Scores every user of a log or of a data directory, part by part, and goes on where an earlier run was stopped."""

import dataclasses
import functools
import pathlib
import time
from collections.abc import Callable, Iterator

from bert4rec_tf.scoring.histories import Histories, read_tested_users
from bert4rec_tf.scoring.output import BAD_ROWS_FILE, Output, OutputOptions, ScoredUsers
from bert4rec_tf.scoring.output_store import stored_output
from bert4rec_tf.scoring.part_scorer import PartCounts, PartScorer, Request
from bert4rec_tf.scoring.user_lists import ChosenUsers, UserLists
from bert4rec_tf.serving.served_model import ServedModel
from pipelines.engines.base import EngineMaker, ShardSequences, Source, default_num_shards
from pipelines.progress import Progress
from pipelines.sources.load_events import timestamp_unit
from pipelines.sources.log_source import LogSource
from tfrecords.config import DataConfig, RecordsConfig
from tfrecords.interruption import raise_if_stopped
from tfrecords.manifest import Manifest, VerifiedRecords
from tfrecords.record_store import local_records
from tfrecords.stores import check_path, is_url, shown
from tfrecords.vocabulary import Vocabulary


def score_log(
    model: ServedModel,
    source: Source,
    output_dir: str | pathlib.Path,
    options: OutputOptions,
    make_engine: EngineMaker,
    load: Callable[[], ServedModel] | None = None,
    progress: Progress | None = None,
) -> ScoredUsers:
    """Recommends to every user of a log, by their whole history.

    The log's rows are read as they were for the model's records (`data.min_rating`, `data.duplicates`,
    `data.tie_order`), but no user or item is dropped for having few events.

    Args:
        model: that recommends.
        source: of the events.
        output_dir: for the parts, `_metadata.json` and, last, `_SUCCESS`; here or in an object store.
        options: what is written.
        make_engine: creates an engine, given a directory for data that does not fit in memory.
        load: loads the same model in another process; needed by engines that score there.
        progress: shows progress bars; None shows none.

    Raises:
        InputError: the log, a list, the options or the output directory cannot be used.
    """
    check_path("output", output_dir)
    if is_url(output_dir):
        with stored_output(output_dir) as (local, is_new):
            options = dataclasses.replace(options, overwrite=options.overwrite or is_new)
            scored = score_log(model, source, local, options, make_engine, load, progress)
        return dataclasses.replace(scored, output_dir=shown(output_dir))
    of_model = model.data or DataConfig()
    kept = {
        name: getattr(of_model, name) for name in ("seed", "duplicates", "tie_order", "min_rating", "max_bad_fraction")
    }
    data = DataConfig(min_user_events=1, min_item_events=1, **kept)
    config = RecordsConfig(data=data)
    progress = progress or Progress(shown=False)
    described = source.description()
    with Output.opened(model, output_dir, options, described) as output:
        if output.finished is not None:
            return output.finished
        unit = timestamp_unit(source, data) if isinstance(source, LogSource) else source.timestamp_unit
        bad_rows = output.directory / BAD_ROWS_FILE
        bad_rows.unlink(missing_ok=True)
        with make_engine(output.work / "spill") as engine:
            loaded = engine.load(source, unit, config, bad_rows, progress)
            loaded.check(str(described.get("inputs", source)), data.max_bad_fraction)
            num_parts = default_num_shards(loaded.events)
            request = _request(options, output.work, num_parts)
            raise_if_stopped()
            prepared = engine.prepare(config, num_parts, progress)
            scorer = PartScorer(load or (lambda: model), output.directory, options.format, request, prepared.item_ids)
            if load is None:
                scorer.warm_up()
            parts = engine.map_shards(functools.partial(_score_shard, scorer))
            counts, seconds = _sum(parts, prepared.users, progress)
        return output.finish(counts, loaded.bad, seconds)


def score_records(
    model: ServedModel,
    data_dir: str | pathlib.Path,
    output_dir: str | pathlib.Path,
    options: OutputOptions,
    progress: Progress | None = None,
) -> ScoredUsers:
    """Recommends to the users of a data directory's test split, by their whole history, the target included.

    Records do not name the users who are not tested: under leave-one-out, those with fewer than three events.

    Args:
        model: that recommends.
        data_dir: written by `build_records`.
        output_dir: as for `score_log`, like the other arguments.
        options: what is written.
        progress: shows progress bars; None shows none.

    Raises:
        InputError: no data directory, a damaged one, or options or an output directory that cannot be used.
    """
    check_path("output", output_dir)
    data_dir = local_records(data_dir)
    if is_url(output_dir):
        with stored_output(output_dir) as (local, is_new):
            options = dataclasses.replace(options, overwrite=options.overwrite or is_new)
            scored = score_records(model, data_dir, local, options, progress)
        return dataclasses.replace(scored, output_dir=shown(output_dir))
    manifest = Manifest.load(data_dir)
    verified = VerifiedRecords(data_dir, manifest, "run the same command again when the records are complete")
    with Output.opened(model, output_dir, options, {"manifest_sha256": manifest.sha256()}) as output:
        if output.finished is not None:
            return output.finished
        with verified.unchanged():
            request = _request(options, output.work, len(manifest.shards("test")))
            item_ids = Vocabulary.load(data_dir).item_ids
            scorer = PartScorer(lambda: model, output.directory, options.format, request, item_ids)
            scorer.warm_up()
            parts = map(scorer.score, read_tested_users(data_dir, manifest))
            counts, seconds = _sum(parts, manifest.counts["evaluated_users"], progress or Progress(shown=False))
        return output.finish(counts, 0, seconds)


def _score_shard(scorer: PartScorer, shard: ShardSequences) -> PartCounts:
    return scorer.score(Histories.of_shard(shard))


def _sum(parts: Iterator[PartCounts], users: int, progress: Progress) -> tuple[PartCounts, float]:
    """The counts of all parts, and the seconds that they took."""
    counts, started = PartCounts(), time.monotonic()
    with progress.stage("scoring", users, unit=" users") as bar:
        for part in parts:
            raise_if_stopped()
            counts += part
            bar.update(part.users)
    return counts, time.monotonic() - started


def _request(options: OutputOptions, work: pathlib.Path, num_parts: int) -> Request:
    lists = {
        name: UserLists.read(path, name, work / name, num_parts)
        for name, path in (("exclude", options.exclude), ("allow", options.allow))
        if path is not None
    }
    users = None if options.users is None else ChosenUsers.read(options.users, "users", work / "users", num_parts)
    return Request(options.top_k, options.drop_seen, options.request_time, users=users, **lists)
