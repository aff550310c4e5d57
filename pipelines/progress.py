"""Bars on standard error: how far a stage is, how fast, and how long it will take. None where that is no terminal."""

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator

from tqdm import tqdm

_SECONDS_BETWEEN_LOOKS = 0.2


class Progress:
    """Shows one stage after the other."""

    def __init__(self, shown: bool | None = None):
        """Shows bars, or not; None: only on a terminal."""
        self._disable = None if shown is None else not shown

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None, unit: str = " rows") -> Iterator["tqdm[None]"]:
        """A bar for what runs inside: `bar.update(number)` moves it on."""
        size = shutil.get_terminal_size()  # some terminals say that they have none, and tqdm then shows nothing
        with tqdm(
            desc=name,
            total=total,
            unit=unit,
            unit_scale=True,
            disable=self._disable,
            leave=False,
            ncols=size.columns,
            nrows=size.lines,
        ) as bar:
            yield bar

    @contextlib.contextmanager
    def watch(self, bar: "tqdm[None]", total: int, done: Callable[[], float]) -> Iterator[None]:
        """Moves a bar on by the fraction of `total` that is done, as another thread asks from time to time."""
        if bar.disable:
            yield
            return
        first, ended = bar.n, threading.Event()

        def look() -> None:
            while not ended.wait(_SECONDS_BETWEEN_LOOKS):
                # Estimates go up and down; a bar does not.
                bar.update(max(0, first + int(total * min(max(done(), 0.0), 1.0)) - bar.n))

        thread = threading.Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            bar.update(first + total - bar.n)
