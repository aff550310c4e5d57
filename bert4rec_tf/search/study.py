"""A search: trials of settings, each a training that ends early if it falls behind; kept in a SQLite file."""

import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any, Literal

from bert4rec_tf.search.page import write_page
from bert4rec_tf.search.space import Space, shown_values, with_values
from bert4rec_tf.search.trial_run import run_trial
from tfrecords.errors import InputError, check_local, writing
from tfrecords.files import locked, write_whole
from tfrecords.interruption import raise_if_stopped
from tfrecords.manifest import Manifest

try:
    import optuna
except ImportError:
    raise InputError(
        "search.py needs optuna. Received: an environment without it. Fix: pip install -r requirements-search.txt, on "
        "Python 3.11 or later"
    ) from None

Pruner = Literal["median", "hyperband", "none"]
STUDY_FILE, BEST_FILE, PAGE_FILE, SETUP_FILE = "study.db", "best.json", "study.html", "setup.json"
_NAME = "search"
_FIRST_TRIALS = 5  # that are compared with nothing
_ALL_FAIL = 3  # a search whose first trials all fail is ended


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """How long and how a search goes.

    Attributes:
        trials: how many trials there are in all, those of earlier calls included.
        time_limit_minutes: of this call; None: none.
        jobs: how many trainings run at the same time.
        pruner: which trainings are given up early, by their validation NDCG@10 after the same share of their steps:
            "median": those below the median of the others; "hyperband": the worse ones of each bracket; "none": none.
        seed: of the sampler.
    """

    trials: int = 50
    time_limit_minutes: float | None = None
    jobs: int = 1
    pruner: Pruner = "median"
    seed: int = 1


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The outcome of a search.

    Attributes:
        best_value: the best validation NDCG@10.
        best_values: the values of the searched settings that gave it.
        finished, pruned, failed: numbers of trials.
    """

    best_value: float
    best_values: dict[str, Any]
    finished: int
    pruned: int
    failed: int


def search(
    data_dir: str,
    study_dir: str,
    settings: dict[str, dict[str, Any]],
    space: Space,
    options: SearchOptions,
    report: Callable[[str], object] = print,
) -> SearchResult:
    """Searches for the settings with the best validation NDCG@10. The test split is not read.

    A search that was stopped or killed goes on when it is called again; so does a training that it was in.

    Args:
        data_dir: the records.
        study_dir: for the study, its trials, `best.json` (for `--config`) and `study.html`.
        settings: sections and fields that all trials share.
        space: what is searched.
        options: how long, and how.
        report: called with a line after each trial.

    Raises:
        InputError: another search is at work in the directory or was there, or no trial gives a model.
    """
    check_local("study_dir", study_dir)
    directory = pathlib.Path(study_dir)
    with writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
    in_use = f"One search at a time works in a directory. Received: {directory}, where another one is at work"
    with locked(directory / ".lock", f"{in_use}. Fix: wait for it, or name another --study_dir"):
        _check_same_search(directory, data_dir, settings, space)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = _open_study(directory, options)
        if not study.get_trials(deepcopy=False):  # the first trial is what the search has to beat
            study.enqueue_trial(space.values_in(settings))
        _Search(data_dir, directory, settings, space, options, study, report).run()
        return _write_results(directory, study, settings)


class _Search:
    """The trials of one call."""

    def __init__(
        self,
        data_dir: str,
        directory: pathlib.Path,
        settings: dict[str, dict[str, Any]],
        space: Space,
        options: SearchOptions,
        study: "optuna.Study",
        report: Callable[[str], object],
    ):
        self._data_dir, self._directory, self._settings, self._space = data_dir, directory, settings, space
        self._options, self._study, self._report = options, study, report
        self._end, self._results = threading.Event(), threading.Lock()
        limit = options.time_limit_minutes
        self._deadline = None if limit is None else time.monotonic() + 60 * limit

    def run(self) -> None:
        """Runs trials until there are enough of them, or the time is over."""
        threads = [threading.Thread(target=self._work) for _ in range(self._options.jobs)]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                threads[0].join(0.2)
                raise_if_stopped()
                for thread in threads:
                    thread.join(0.05)
        finally:
            self._end.set()
            for thread in threads:
                thread.join()

    def _work(self) -> None:
        while not self._end.is_set() and (self._deadline is None or time.monotonic() < self._deadline):
            with self._results:
                trials = self._study.get_trials(deepcopy=False)
                waiting = any(trial.state == optuna.trial.TrialState.WAITING for trial in trials)
                if sum(map(_counts, trials)) >= self._options.trials and not waiting:
                    return
                failed = sum("error" in trial.user_attrs for trial in trials)
                if failed >= _ALL_FAIL and _best(self._study) is None:
                    return
                trial = self._study.ask()
            self._run_trial(trial)

    def _run_trial(self, trial: "optuna.Trial") -> None:
        values = self._space.suggest(trial)
        model_dir = self._directory / "trials" / _folder(values)
        trial.set_user_attr("folder", model_dir.name)

        def stop(percent: int, value: float) -> bool:
            trial.report(value, percent)
            return trial.should_prune()

        try:
            settings = with_values(self._settings, values)
        except InputError as error:
            self._tell(trial, None, optuna.trial.TrialState.FAIL, str(error))
            return
        threads = max(1, (os.cpu_count() or 1) // self._options.jobs)
        outcome = run_trial(self._data_dir, model_dir, settings, threads, stop, self._end, self._deadline)
        if outcome.finished and outcome.best is not None:
            self._tell(trial, outcome.best, optuna.trial.TrialState.COMPLETE)
        elif outcome.error or outcome.finished:
            self._tell(trial, None, optuna.trial.TrialState.FAIL, outcome.error or "it was never validated")
        elif not self._end.is_set() and (self._deadline is None or time.monotonic() < self._deadline):
            self._tell(trial, None, optuna.trial.TrialState.PRUNED)
        # Else it was stopped: it stays unfinished, and goes on at the next call.

    def _tell(
        self, trial: "optuna.Trial", value: float | None, state: "optuna.trial.TrialState", error: str = ""
    ) -> None:
        with self._results:
            if error:
                trial.set_user_attr("error", error)
            self._study.tell(trial, value, state)
            best = _best(self._study)
            self._keep_only_the_best(best)
            words = {"COMPLETE": f"{value or 0:.4f}", "PRUNED": "given up early", "FAIL": f"failed: {error}"}
            so_far = "" if best is None else f"; best so far {best.value:.4f}"
            self._report(f"trial {trial.number + 1}: {words[state.name]}{so_far} ({shown_values(trial.params)})")

    def _keep_only_the_best(self, best: "optuna.trial.FrozenTrial | None") -> None:
        """Removes the checkpoints of trials that ended and are not the best."""
        kept = best.user_attrs["folder"] if best is not None else ""
        for trial in self._study.get_trials(deepcopy=False):
            folder = trial.user_attrs.get("folder", "")
            if trial.state.is_finished() and folder and folder != kept:
                shutil.rmtree(self._directory / "trials" / folder / "checkpoints", ignore_errors=True)


def _open_study(directory: pathlib.Path, options: SearchOptions) -> "optuna.Study":
    pruners = {
        "median": lambda: optuna.pruners.MedianPruner(n_startup_trials=_FIRST_TRIALS, n_warmup_steps=20),
        "hyperband": lambda: optuna.pruners.HyperbandPruner(min_resource=10, max_resource=100),
        "none": optuna.pruners.NopPruner,
    }
    study = optuna.create_study(
        storage=f"sqlite:///{(directory / STUDY_FILE).resolve()}",
        study_name=_NAME,
        direction="maximize",
        sampler=optuna.samplers.TPESampler(seed=options.seed, n_startup_trials=_FIRST_TRIALS),
        pruner=pruners[options.pruner](),
        load_if_exists=True,
    )
    for trial in study.get_trials(deepcopy=False):
        if _is_running(trial):  # of a call that was stopped: the same values again, whose training goes on
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(trial.params, user_attrs={"resumed": True})
    return study


def _counts(trial: "optuna.trial.FrozenTrial") -> bool:
    """Whether a trial counts towards `SearchOptions.trials`. A stopped one that was started again does not."""
    states = optuna.trial.TrialState
    return trial.state in (states.COMPLETE, states.PRUNED, states.RUNNING) or "error" in trial.user_attrs


def _is_running(trial: "optuna.trial.FrozenTrial") -> bool:
    return trial.state == optuna.trial.TrialState.RUNNING


def _best(study: "optuna.Study") -> "optuna.trial.FrozenTrial | None":
    complete = [trial for trial in study.get_trials(deepcopy=False) if trial.state == optuna.trial.TrialState.COMPLETE]
    return max(complete, key=lambda trial: trial.value or 0.0, default=None)


def _check_same_search(
    directory: pathlib.Path, data_dir: str, settings: dict[str, dict[str, Any]], space: Space
) -> None:
    setup = {
        "manifest_sha256": Manifest.load(data_dir).sha256(),
        "settings": settings,
        "space": {name: dict(given) for name, given in space.ranges.items()},
    }
    file = directory / SETUP_FILE
    if file.is_file():
        before = json.loads(file.read_text(encoding="utf-8"))
        different = next((name for name in setup if before.get(name) != setup[name]), None)
        if different:
            raise InputError(
                f"A search must go on with the same records, settings and space. Received: {directory}, begun with "
                f"other {different}. Fix: name another --study_dir"
            )
        return
    if any(path.name != ".lock" for path in directory.iterdir()):
        raise InputError(
            f"--study_dir must be new, empty or made by search.py. Received: {directory}, which holds something else. "
            "Fix: name another directory"
        )
    write_whole(file, json.dumps(setup, indent=1) + "\n")


def _write_results(directory: pathlib.Path, study: "optuna.Study", settings: dict[str, dict[str, Any]]) -> SearchResult:
    trials, best = study.get_trials(deepcopy=False), _best(study)
    if best is None:
        errors = [trial.user_attrs["error"] for trial in trials if "error" in trial.user_attrs]
        failed = f"{len(errors)} failed trials, the last one: {errors[-1]}" if errors else "none in the time"
        raise InputError(
            f"A search needs a trial that ends. Received: {failed}. Fix: allow more time, or correct the space"
        )
    states = [trial.state.name for trial in trials]
    write_whole(directory / BEST_FILE, json.dumps(with_values(settings, best.params), indent=1) + "\n")
    write_page(directory / PAGE_FILE, trials, best.number)
    return SearchResult(
        best_value=float(best.value or 0.0),
        best_values=dict(best.params),
        finished=states.count("COMPLETE"),
        pruned=states.count("PRUNED"),
        failed=len([trial for trial in trials if "error" in trial.user_attrs]),
    )


def _folder(values: dict[str, Any]) -> str:
    """A name for the trial of these values, so that a repeated trial resumes its training."""
    return "trial-" + hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]
