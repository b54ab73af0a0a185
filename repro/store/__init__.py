"""HDF5 artifacts: identity, checksums, provenance, whole writes, and the work folders of long stages.

`repro.reading.query` (which loads pandas) lists, describes and exports them.
"""

from repro.store.artifact import Artifact, check_same, read, read_header, table, write
from repro.store.files import writer_lock
from repro.store.index import Glance, Index, glance
from repro.store.lineage import Lineage, identity
from repro.store.provenance import provenance
from repro.store.work import WorkFolder

__all__ = [
    "Artifact",
    "Glance",
    "Index",
    "Lineage",
    "WorkFolder",
    "check_same",
    "glance",
    "identity",
    "provenance",
    "read",
    "read_header",
    "table",
    "write",
    "writer_lock",
]
