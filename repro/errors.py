"""The two ways a command ends badly. The command line prints the message alone, without a traceback."""


class UsageError(ValueError):
    """The user asked for something that cannot be: exit status 2. The message echoes the value and says what to do."""


class RunError(RuntimeError):
    """The work failed although it was asked for correctly (disk full, no permission, NaN): exit status 1."""
