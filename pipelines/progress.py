"""Progress bars on standard error: how far a stage is, its speed and the time left. Shown only on a terminal."""

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator

from tqdm import tqdm

_SECONDS_BETWEEN_UPDATES = 0.2


class Progress:
    """Shows the stages one after the other."""

    def __init__(self, shown: bool | None = None):
        """Shows bars if `shown`; None: only on a terminal."""
        self._disable = None if shown is None else not shown

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None, unit: str = " rows") -> Iterator["tqdm[None]"]:
        """A bar for the work in the block, which calls `bar.update(number)`."""
        size = shutil.get_terminal_size()  # some terminals report a size of 0, for which tqdm would show nothing
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
        """Advances a bar to the fraction of `total` that `done` returns. Another thread calls it at intervals."""
        if bar.disable:
            yield
            return
        first, ended = bar.n, threading.Event()

        def update() -> None:
            while not ended.wait(_SECONDS_BETWEEN_UPDATES):
                # An estimate may fall, but the bar must not.
                bar.update(max(0, first + int(total * min(max(done(), 0.0), 1.0)) - bar.n))

        thread = threading.Thread(target=update, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            bar.update(first + total - bar.n)
