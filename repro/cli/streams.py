"""Standard streams that can fail (a full disk, a reader that went away, closed by the shell) without a command failing
halfway: the work goes on, and what could not be printed is told at the end."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO


class Steady:
    """A text stream that keeps its first error instead of raising it. None is a stream that the shell closed."""

    def __init__(self, stream: TextIO | None):
        self._stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 (until the process ends)
        self._closed, self.error = stream is None, None

    def write(self, text: str) -> int:
        if self._closed:
            self.error = OSError(errno.EBADF, "it is closed")
        self._try(self._stream.write, text)
        return len(text)

    def writelines(self, lines) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, act, *arguments) -> None:
        if self.error is None:
            try:
                act(*arguments)
            except OSError as error:
                self.error = error
                self._drop()

    def _drop(self) -> None:
        """What is left in Python's buffer goes nowhere: it would be written, and fail, again when Python ends."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str):  # isatty, encoding, buffer …
        return getattr(self._stream, name)


@contextmanager
def steady() -> Iterator[None]:
    """sys.stdout and sys.stderr that do not raise; those that the shell closed go nowhere.

    Exits with status 1 at the end of a command whose output could not be printed; where its reader went away, as in
    `repro ls | head`, without a word.
    """
    _fill_descriptors()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err = Steady(sys.stdout), Steady(sys.stderr)
    ended = None
    try:
        yield
    except SystemExit as ending:
        ended = ending
    finally:
        for stream in (out, err):
            stream.flush()
        if out.error and out.error.errno != errno.EPIPE:
            err.write(f"Error: cannot print to standard output ({out.error.strerror.lower()}): what was made is kept\n")
            err.flush()
        sys.stdout, sys.stderr = before
    if out.error and not (ended and ended.code):
        sys.exit(1)
    if ended:
        raise ended


def _fill_descriptors() -> None:
    """A file opened later must not become descriptor 1 or 2, where libraries print their complaints."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
