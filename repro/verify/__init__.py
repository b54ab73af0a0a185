"""From measurements to verdicts: statistics, the paper's claims and published numbers, reports. Imports no torch."""
