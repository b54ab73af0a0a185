"""The group of commands, and how its failures end: one sentence and an exit status, no traceback."""

import re
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from repro.cli.printable import plain, prepare_streams
from repro.cli.streams import steady
from repro.errors import RunError, UsageError


class Interrupted(click.ClickException):
    exit_code = 130

    def __init__(self):
        super().__init__("interrupted: what was finished is kept; the same command (without --force) takes it up")


class Attempt(ExitStack):
    """What the commands of one process share: the words after the group's options, and the record of --log."""

    def __init__(self):
        super().__init__()
        self.words: list[str] = []
        self.record = None
        self.begun = False


class Commands(click.Group):
    """Several commands in one process, with "then" between them; failures as one sentence and an exit status."""

    def main(self, args=None, **extra):
        prepare_streams()
        words = list(sys.argv[1:] if args is None else args)
        with steady(), Attempt() as attempt:
            while "then" in words:
                end = words.index("then")
                attempt.words = words
                try:
                    super().main(words[:end], obj=attempt, **extra)
                except SystemExit as ended:
                    if ended.code:
                        raise
                del words[: end + 1]
            attempt.words = words
            return super().main(words, obj=attempt, **extra)

    def invoke(self, ctx: click.Context):
        try:
            return self._invoke(ctx)
        except click.ClickException as failure:
            if ctx.obj.record:
                ctx.obj.record.failed(failure.format_message())
            raise

    def _invoke(self, ctx: click.Context):
        try:
            return super().invoke(ctx)
        except UsageError as error:
            raise Failure(str(error), 2) from error
        except RunError as error:
            raise Failure(str(error), 1) from error
        except (MemoryError, RuntimeError) as error:  # what torch cannot allocate is a RuntimeError
            if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
                raise
            advice = "ask for fewer --replicates at a time, a smaller --batch-size or another --network"
            raise Failure(f"out of memory: {advice}", 1) from error
        except OSError as error:  # whatever no stage has put into words
            raise Failure(_told(error), 1) from error
        except KeyboardInterrupt as error:
            raise Interrupted from error


def _told(error: OSError) -> str:
    """A failure of the system in one sentence."""
    from repro.store.files import FULL

    if error.errno in FULL:
        return (f"no space left on device{f' for {error.filename}' if error.filename else ''}: free some space and run the "
                "same command again; what was finished is kept")  # fmt: skip
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    return f"cannot read or write {error.filename or 'a file'} ({reason}): allow it, or choose another place"


class Failure(click.ClickException):
    def __init__(self, message: str, exit_code: int):
        super().__init__(plain(message))
        self.exit_code = exit_code


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="lottery-data-diet", prog_name="repro")
@click.option("--log", type=click.Path(path_type=Path), metavar="FILE",
              help="Append to FILE what the commands print, with begin and end; one process at a time.")  # fmt: skip
@click.option("--quiet", is_flag=True, help="Print to the log alone, and only why it failed here.")
@click.pass_context
def main(context, log, quiet):
    """Reproduce "Lottery Tickets on a Data Diet" (Paul et al., NeurIPS 2022), one step at a time.

    \b
    The whole of Figure 2 on real 8x8 digits, in minutes, without a GPU:
      make demo
    The same by hand:
      repro score    --dataset digits --out scores.h5
      repro select   --kind easy --size 256 --scores scores.h5 --out easy.h5
      repro pretrain --subset easy.h5 -t 10 --out easy-t10.h5
      repro imp      easy-t10.h5 --levels 12 --out imp.h5
      repro ls       'level==8' --columns name,acc,density --results .
    Commands with "then" between them share one process: repro pretrain … then imp … then barrier …
    """
    attempt = context.obj
    if (log or quiet) and attempt.begun:
        raise UsageError("--log and --quiet are for all commands: put them before the first, not after a then")
    attempt.begun = True
    if quiet and not log:
        raise UsageError("--quiet prints to the log alone: add --log FILE")
    if log:
        from repro import joblog

        command = attempt.words[attempt.words.index(context.invoked_subcommand) :]
        attempt.record = attempt.enter_context(joblog.recorded(log, command, quiet=quiet))
