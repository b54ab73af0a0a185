"""`python -m repro`."""

from repro.cli import main

main(prog_name="repro")
