"""The group of commands, and how its failures end: one sentence and an exit status, no traceback."""

import re
import sys

import click

from repro.errors import RunError, UsageError


class Interrupted(click.ClickException):
    exit_code = 130

    def __init__(self):
        super().__init__("interrupted: what was finished is kept; the same command (without --force) takes it up")


class Commands(click.Group):
    """Several commands in one process, with "then" between them; failures as one sentence and an exit status."""

    def main(self, args=None, **extra):
        words = list(sys.argv[1:] if args is None else args)
        while "then" in words:
            end = words.index("then")
            try:
                super().main(words[:end], **extra)
            except SystemExit as ended:
                if ended.code:
                    raise
            del words[: end + 1]
        return super().main(words, **extra)

    def invoke(self, ctx: click.Context):
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
        except KeyboardInterrupt as error:
            raise Interrupted from error


class Failure(click.ClickException):
    def __init__(self, message: str, exit_code: int):
        super().__init__(message)
        self.exit_code = exit_code


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="lottery-data-diet", prog_name="repro")
def main():
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
