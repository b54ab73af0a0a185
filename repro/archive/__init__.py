"""Everything of a figure in one zip, and the check of such a zip on another machine.

`contents` says what is in it, `crate` describes it as an RO-Crate, `zipped` writes and unpacks, `check` recomputes.
"""

from repro.archive.check import Report, check
from repro.archive.contents import missing, write

__all__ = ["Report", "check", "missing", "write"]
