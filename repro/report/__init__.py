"""One self-contained HTML page of everything made so far: `repro report`."""

from repro.report.page import build, write

__all__ = ["build", "write"]
