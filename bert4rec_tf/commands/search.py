"""`search.py` and `bert4rec-search`: search for settings with a better validation."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import flags

from bert4rec_tf.api.auto_recipe import AUTO, training_settings
from bert4rec_tf.api.recipes import config_file
from bert4rec_tf.command_line import command
from bert4rec_tf.commands.entry_point import run_main
from bert4rec_tf.config import read_settings
from bert4rec_tf.search.space import Space, shown_values
from tfrecords.errors import InputError, check_local
from tfrecords.interruption import stopped_at_once
from tfrecords.manifest import Manifest

_DATA = flags.DEFINE_string("data_dir", None, "data directory, made by pipelines/make_tfrecords.py", required=True)
_STUDY = flags.DEFINE_string(
    "study_dir", None, "directory of the search; the same command continues a search that it holds", required=True
)
_CONFIG = flags.DEFINE_string(
    "config", AUTO, "settings that all trials share: a JSON file, the name of a recipe, or `auto`"
)
_SET = flags.DEFINE_multi_string("set", [], "section.field=value that all trials share; overrides --config; repeatable")
_SPACE = flags.DEFINE_string(
    "space", None, "JSON file of ranges by setting; default: sizes, dropout, learning rate and passes"
)
_TRIALS = flags.DEFINE_integer("trials", 50, "number of trials in all, those of earlier calls included", lower_bound=1)
_LIMIT = flags.DEFINE_float("time_limit_minutes", None, "longest time of this call; the search can go on later")
_JOBS = flags.DEFINE_integer("jobs", 1, "number of trainings at the same time, which share the cores", lower_bound=1)
_PRUNER = flags.DEFINE_enum(
    "pruner", "median", ["median", "hyperband", "none"], "which trainings are given up early, by their validations"
)
_SEED = flags.DEFINE_integer("seed", 1, "seed of the sampler", lower_bound=0)


@command
def main() -> None:
    """Searches, and writes the best settings."""
    for flag in (_DATA, _STUDY, _SPACE, _CONFIG):
        check_local(flag.name, flag.value)
    from bert4rec_tf.search.study import BEST_FILE, PAGE_FILE, SearchOptions, search  # optuna is an optional package

    if _LIMIT.value is not None and _LIMIT.value <= 0:
        raise InputError(f"--time_limit_minutes must be above 0. Received: {_LIMIT.value}")
    space, given = Space.read(_SPACE.value), read_settings(None, _SET.value)
    if _CONFIG.value == AUTO:
        settings = training_settings(Manifest.load(_DATA.value), given)
    else:
        settings = read_settings(config_file(_CONFIG.value), _SET.value)
    settings = {name: fields for name, fields in settings.items() if name not in ("data", "masking")}
    pruner = {"median": "median", "hyperband": "hyperband"}.get(str(_PRUNER.value), "none")
    options = SearchOptions(_TRIALS.value, _LIMIT.value, _JOBS.value, pruner, _SEED.value)  # type: ignore[arg-type]
    directories = str(_DATA.value), str(_STUDY.value)
    with stopped_at_once("while it searched; run the same command again to go on"):
        found = search(*directories, settings, space, options, lambda line: print(line, flush=True))
    print(f"{found.finished} trials finished, {found.pruned} were given up early, {found.failed} failed")
    print(f"best validation NDCG@10 {found.best_value:.4f}: {shown_values(found.best_values)}")
    print(f"wrote {_STUDY.value}/{BEST_FILE}, for --config of train.py, and {_STUDY.value}/{PAGE_FILE}")


def run() -> None:
    """Runs the command."""
    run_main(main, __name__)
