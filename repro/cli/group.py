"""The group of commands: help, failures as one sentence and an exit status, and streams that can fail.

Standard streams can fail (a full disk, a reader that went away, closed by the shell). A command goes on all the same,
and what could not be printed is told at the end. Any terminal can show what is printed: letters that its encoding
lacks are replaced, and control characters left out.
"""

import codecs
import errno
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TextIO

import click

from repro.errors import RunError, UsageError

GROUPS = ("What", "How it trains", "Where", "Machine", "Help")
MAY_BE_EMPTY = ("milestones", "extra")  # no milestones; make's options, where there are none
LESS = {
    "--replicates": "fewer --replicates at a time",
    "--batch-size": "a smaller --batch-size",
    "--network": "another --network",
}
_PLAIN = {"–": "-", "—": "-", "−": "-", "→": "->", "×": "x", "±": "+/-", "α": "alpha", "ρ": "rho", "µ": "u", "½": "1/2"}
SHOWN = 100  # characters at either end of a long word
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


class Interrupted(click.ClickException):
    exit_code = 130

    def __init__(self):
        super().__init__("interrupted: what was finished is kept; the same command (without --force) takes it up")


class Attempt(ExitStack):
    """What the commands of one process share: the words not parsed yet, and the record of --log."""

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
        except (MemoryError, RuntimeError) as error:  # PyTorch raises RuntimeError for memory
            if isinstance(error, RuntimeError) and not re.search("out of memory|allocate memory", str(error)):
                raise
            raise Failure(f"out of memory{self._advice(ctx, error)}", 1) from error
        except OSError as error:  # that no stage has put into words
            raise Failure(_told(error), 1) from error
        except KeyboardInterrupt as error:
            raise Interrupted from error

    def _advice(self, ctx: click.Context, error: Exception) -> str:
        """What to change so that a command takes less memory; its options only where PyTorch ran out of memory."""
        known = {option for parameter in self.commands[ctx.invoked_subcommand].params for option in parameter.opts}
        said = [text for option, text in LESS.items() if option in known and "--engine" in known]
        if isinstance(error, RuntimeError) and said:
            return f": ask for {' or '.join(filter(None, [', '.join(said[:-1]), said[-1]]))}"
        wanted = f" ({str(error).rstrip('.').lower()})" if isinstance(error, MemoryError) and str(error) else ""
        return f"{wanted}: end other programs, or use a machine with more memory"


class Option(click.Option):
    """An option that says its default in the help.

    Arguments:
        group: the heading that it stands under there, one of `GROUPS`.
    """

    def __init__(self, *names, group: str = GROUPS[0], **given):
        super().__init__(*names, **{"show_default": True, **given})
        self.group = group


class Command(click.Command):
    """A command whose options are listed in groups, and whose line in the overview is its first sentence, whole.

    It takes no empty text for a value, where it would be taken for the default or for this folder.
    """

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        listed = [p for p in self.get_params(ctx) if isinstance(p, click.Option)]
        for heading in GROUPS:
            if rows := [p.get_help_record(ctx) for p in listed if getattr(p, "group", GROUPS[-1]) == heading]:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def get_short_help_str(self, limit: int = 0) -> str:
        return " ".join(self.help.partition("\n\n")[0].split())

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


@main.result_callback()
def show(result, **_):
    """Prints what a command returns, its summary."""
    if result is not None:
        click.echo(str(result))


def plain(text: str) -> str:
    """The text without terminal escapes and control characters, which messages of libraries and names may hold."""
    return _CONTROL.sub("", text)


def sentence(text: str) -> str:
    """An error as one line: names may hold line ends, and what is echoed may be thousands of characters long."""
    line = " ".join(plain(text).split())
    return re.sub(rf"\S{{{2 * SHOWN + 1},}}", lambda word: f"{word[0][:SHOWN]}…{word[0][-SHOWN:]}", line)


def _nearest(error: UnicodeEncodeError) -> tuple[str, int]:
    """Letters to print in place of those that an encoding lacks; '?' where there is none like it."""
    letters = error.object[error.start : error.end]
    near = (
        _PLAIN.get(c) or unicodedata.normalize("NFKD", c).encode("ascii", "ignore").decode() or "?" for c in letters
    )
    return "".join(near), error.end


def prepare_streams() -> None:
    """Lets stdout and stderr print whatever the program says, in any locale."""
    codecs.register_error("nearest", _nearest)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="nearest")


class Steady:
    """A text stream that keeps its first error instead of raising it.

    Arguments:
        stream: None where the shell closed it.
    """

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
        """Send Python's buffer nowhere: it would be written, and fail, once more when Python ends."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)

    def __getattr__(self, name: str):  # isatty, encoding, buffer …
        return getattr(self._stream, name)


@contextmanager
def steady() -> Iterator[None]:
    """Replaces sys.stdout and sys.stderr by streams that do not raise; those that the shell closed go nowhere.

    A command whose output could not be printed exits with status 1. It says why, unless the reader went away as in
    `repro ls | head`.
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
    """Opens closed descriptors: a file opened later must not become 1 or 2, where libraries print their complaints."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            with suppress(OSError):
                os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
