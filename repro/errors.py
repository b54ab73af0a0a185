"""What a user is told: how a command ends badly (the message alone, without a traceback), and what is said once."""

import sys
from functools import cache


class UsageError(ValueError):
    """The user asked for something that cannot be: exit status 2. The message echoes the value and says what to do."""


class RunError(RuntimeError):
    """The work failed although it was asked for correctly (disk full, no permission, NaN): exit status 1."""


@cache
def say_once(sentence: str, about: object = None) -> None:
    """Prints a line on stderr, once a process for the same sentence and the same ``about``."""
    print(sentence, file=sys.stderr)
