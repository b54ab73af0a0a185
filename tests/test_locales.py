"""What the program says in any locale, and of names that are no text: shown as well as can be, never a traceback."""

import os
import subprocess
import sys

import pytest

from repro.cli.group import plain
from tests.command_line import ROOT, repro

LOCALES = {
    "latin-1": {"PYTHONIOENCODING": "iso-8859-1"},
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
}


def said(locale: str, *words, **options) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **LOCALES[locale]}
    return subprocess.run([sys.executable, "-m", "repro", *words], env=environment, capture_output=True, **options)


@pytest.mark.parametrize("locale", LOCALES)
def test_help_and_messages_in_other_locales(locale, tmp_path):
    for words in (["--help"], ["score", "--help"]):
        shown = said(locale, *words)
        assert shown.returncode == 0 and shown.stderr == b""
        assert (b"..." if locale == "latin-1" else "…".encode()) in shown.stdout  # click takes ASCII for UTF-8
    failed = said(locale, "inspect", "größe→狗.h5", cwd=tmp_path)
    assert failed.returncode == 2 and b"Traceback" not in failed.stderr and b"does not exist" in failed.stderr
    assert b"->" in failed.stderr or locale == "ascii"  # where names are no text, but bytes


def test_what_is_written_is_utf8_in_any_locale(tmp_path):
    program = "import pathlib, repro.store.files as f; f.write_text(pathlib.Path('a.md'), '\\u2026')"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **LOCALES["ascii"]}
    subprocess.run([sys.executable, "-c", program], env=environment, cwd=tmp_path, check=True)
    assert (tmp_path / "a.md").read_bytes() == "…".encode()


def test_bytes_that_are_no_text_are_shown(tmp_path):
    failed = said("latin-1", "ls", "--results", b"\xff\xfe", cwd=tmp_path)
    assert failed.returncode == 2 and b"Traceback" not in failed.stderr and b"??" in failed.stderr


def test_no_terminal_escapes_in_messages(tmp_path):
    assert plain("\x1b[1mbold\x1b[0m\x07 word\nline") == "bold word\nline"
    assert "\x1b" not in repro("inspect", tmp_path / "\x1b[31mred.h5", code=2).stderr
