"""Text that any terminal can show: other letters where its encoding lacks one, and no control characters."""

import codecs
import re
import sys
import unicodedata

_PLAIN = {"–": "-", "—": "-", "−": "-", "→": "->", "×": "x", "±": "+/-", "α": "alpha", "ρ": "rho", "µ": "u", "½": "1/2"}
SHOWN = 100  # characters at either end of a long word
_CONTROL = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|[\x00-\x08\x0b-\x1f\x7f]")


def plain(text: str) -> str:
    """The text without terminal escapes and control characters, which libraries' and files' words may hold."""
    return _CONTROL.sub("", text)


def sentence(text: str) -> str:
    """An error as one line: names may hold line ends, and what is echoed may be thousands of characters long."""
    line = " ".join(plain(text).split())
    return re.sub(rf"\S{{{2 * SHOWN + 1},}}", lambda word: f"{word[0][:SHOWN]}…{word[0][-SHOWN:]}", line)


def _nearest(error: UnicodeEncodeError) -> tuple[str, int]:
    """The letters that stand for those an encoding has not; '?' where nothing is near (parts of undecoded names)."""
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
