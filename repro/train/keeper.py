"""What training can go on from when it is interrupted or runs out of memory."""

import time
from collections.abc import Callable

from repro.train.job import Observer, Progress


class Keeper:
    """The last good state: in memory, to go on from when memory runs out, and as checkpoints when they are due.

    Arguments:
        save: writes a checkpoint; None for none.
        seconds: time between checkpoints, more if saving would take above a twentieth of the time.
        observe: whoever looks at the steps, whose arrays belong to the state.
    """

    def __init__(self, save: Callable[[Progress], None] | None, seconds: float, observe: Observer | None):
        self.save, self.seconds, self.observe = save, seconds, observe
        self.saved, self.interval = time.monotonic(), seconds

    @property
    def due(self) -> bool:
        """Whether it is time for a checkpoint."""
        return self.save is not None and time.monotonic() - self.saved > self.interval

    def checkpoint(self, state: Progress) -> None:
        """Write the state, and keep it."""
        asked = time.monotonic()
        self.save(state)
        self.saved = time.monotonic()
        self.interval = max(self.seconds, 20 * (self.saved - asked))
        self.keep(state)

    def keep(self, state: Progress) -> None:
        """Keep the state in memory."""
        self.state, self.extra = state, {name: array.copy() for name, array in state.extra.items()}

    def recall(self) -> Progress:
        """The state kept last; what the observer has seen since is forgotten."""
        if self.observe:
            self.observe.state.update({name: array.copy() for name, array in self.extra.items()})
        return self.state
