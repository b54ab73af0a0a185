"""Messages to the user: errors, of which a command prints the message without a traceback, and notes said once."""

import sys
from functools import cache


class UsageError(ValueError):
    """The user asked for something impossible: exit status 2. The message repeats the value and says what to do."""


class RunError(RuntimeError):
    """A correct command failed (disk full, no permission, NaN): exit status 1."""


@cache
def say_once(sentence: str, about: object = None) -> None:
    """Prints a line on stderr, once a process for the same sentence and the same ``about``."""
    print(sentence, file=sys.stderr)
