"""The group of commands, and how its failures end: one sentence and an exit status, no traceback."""

import os
import re
import sys
from contextlib import ExitStack
from pathlib import Path

import click

from repro.cli.printable import prepare_streams, sentence
from repro.cli.streams import steady
from repro.errors import RunError, UsageError

MAY_BE_EMPTY = ("milestones", "extra")  # no milestones; make's options, where there are none
LESS = {
    "--replicates": "fewer --replicates at a time",
    "--batch-size": "a smaller --batch-size",
    "--network": "another --network",
}


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
            failure.message = sentence(failure.message)
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
            raise Failure(f"out of memory{self._advice(ctx, error)}", 1) from error
        except OSError as error:  # whatever no stage has put into words
            raise Failure(_told(error), 1) from error
        except KeyboardInterrupt as error:
            raise Interrupted from error

    def _advice(self, ctx: click.Context, error: Exception) -> str:
        """What of a command's options takes less memory; of PyTorch's memory alone: others hold no networks."""
        known = {option for parameter in self.commands[ctx.invoked_subcommand].params for option in parameter.opts}
        said = [text for option, text in LESS.items() if option in known and "--engine" in known]
        if isinstance(error, RuntimeError) and said:
            return f": ask for {' or '.join(filter(None, [', '.join(said[:-1]), said[-1]]))}"
        wanted = f" ({str(error).rstrip('.').lower()})" if isinstance(error, MemoryError) and str(error) else ""
        return f"{wanted}: end other programs, or use a machine with more memory"


class Command(click.Command):
    """A command that takes no empty text for a value, where it would be taken for the default or for this folder."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        given, _, order = self.make_parser(ctx).parse_args(args=list(args))
        for parameter in order:
            values = given.get(parameter.name)
            if parameter.name not in MAY_BE_EMPTY and (
                values == "" or isinstance(values, (list, tuple)) and "" in values
            ):
                raise click.UsageError(f"{parameter.get_error_hint(ctx)} is empty: give a value, or leave it out", ctx)
        return super().parse_args(ctx, args)


Commands.command_class = Command


def _told(error: OSError) -> str:
    """A failure of the system in one sentence."""
    from repro.store.files import FULL

    if "temporary directory" in str(error):  # Python's own words, after it tried some
        return "no temporary file can be written: set TMPDIR to a folder that can be written and has room"

    if error.errno in FULL:
        return (
            f"no space left on device{f' for {error.filename}' if error.filename else ''}: free some space and run the "
            "same command again; what was finished is kept"
        )
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    return f"cannot read or write {error.filename or 'a file'} ({reason}): allow it, or choose another place"


class Failure(click.ClickException):
    def __init__(self, message: str, exit_code: int):
        super().__init__(sentence(message))
        self.exit_code = exit_code


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="lottery-data-diet", prog_name="repro")
@click.option(
    "--log",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Append to FILE what the commands print, with begin and end; one process at a time.",
)
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
    if os.environ.get("TERM") == "dumb" or os.environ.get("NO_COLOR"):
        context.color = False
    if (log or quiet) and attempt.begun:
        raise UsageError("--log and --quiet are for all commands: put them before the first, not after a then")
    attempt.begun = True
    if quiet and not log:
        raise UsageError("--quiet prints to the log alone: add --log FILE")
    if log:
        from repro.run import job_log

        command = attempt.words[attempt.words.index(context.invoked_subcommand) :]
        attempt.record = attempt.enter_context(job_log.recorded(log, command, quiet=quiet))
