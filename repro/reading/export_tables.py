"""Tables as files for other programs: CSV, and Parquet with the origin of its rows; scores and subsets by image."""

import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd

from repro.errors import UsageError
from repro.reading.query import runs_and_sources, source_of
from repro.recipes.artifacts import array_name
from repro.store.artifact import Artifact, read
from repro.store.file_kinds import require_replaceable
from repro.store.files import write_whole

TABLES = (".csv", ".parquet")
NETWORKS = (".pt", ".safetensors")  # written by `repro.reading.networks`


def export(source: str | Path, target: str | Path, *, by_image: bool = False) -> Path:
    """Writes the table of an artifact, or the `runs` of a folder of them, to a file; returns the file's path.

    Arguments:
        source: an artifact, or a folder of results.
        by_image: of a score artifact the `image_scores`, which ``repro select --scores FILE:el2n`` reads again.
        target: a file that ends in .csv or .parquet (without a suffix: CSV), or a folder, which gets ``<name>.csv``.

    Floats keep every digit, integers beside missing values stay integers. Parquet has each column's type, and
    `source_of` the artifact (of a folder: a list of them) as JSON in the metadata of its schema, by the key ``repro``.

    Raises UsageError for another suffix, an artifact without a table, or one without scores where those are asked for;
    RunError when it cannot be written.
    """
    source, target = Path(source), Path(target)
    suffix = suffix_of(target)
    if by_image:
        artifact = read(source, kind="score")
        frame, sources, name = image_scores(artifact), source_of(artifact), artifact.name
    elif source.is_dir():
        (frame, sources), name = runs_and_sources(source), source.resolve().name
    else:
        artifact = read(source)
        frame, sources, name = artifact.table(), source_of(artifact), artifact.name
        if not len(frame.columns):
            raise UsageError(f"{source} has no table to export: read its arrays with repro.load or h5py")
    target = target / f"{name}.csv" if target.is_dir() else target
    contents = _parquet(frame, sources) if suffix == ".parquet" else frame.to_csv(index=False).encode()
    require_replaceable(target, "table", contents)
    write_whole(target, [contents])
    return target


def image_scores(artifact: Artifact) -> pd.DataFrame:
    """The scores of a score artifact, a row for each image that was trained on.

    Columns: fold (or replicate, where each has labels of its own); index, the image's in its data set; el2n, margin,
    forgetting and, if computed, grand: float32, means over the networks. The lowest are easy.
    """
    from repro.stages.ranking import SCORES  # here: it imports PyTorch

    groups = {}
    for key in artifact.keys():
        if found := re.fullmatch(r"([a-z]+)_(\d+)/index", key):
            unit, group = found[1], int(found[2])
            scores = {score: f"{unit}_{group}/{score}" for score in SCORES}
            values = {score: artifact[key] for score, key in scores.items() if key in artifact}
            groups[group] = pd.DataFrame({unit: group, "index": artifact[key], **values})
    return pd.concat([groups[group] for group in sorted(groups)], ignore_index=True)


def export_indices(source: str | Path, target: str | Path, replicate: int) -> Path:
    """Writes the images of a subset artifact's replicate, in its order, for ``torch.utils.data.Subset``.

    Arguments:
        target: .npy (int64), .pt (a tensor), .json (a list), .csv (a column called index) or .txt (one a line); each
            is read by ``repro select --indices`` again.

    Raises UsageError for another suffix, another kind of artifact or a replicate that it lacks.
    """
    source, target = Path(source), Path(target)
    artifact, suffix = read(source, kind="subset"), target.suffix.lower()
    if (key := array_name("index", replicate=replicate)) not in artifact:
        raise UsageError(f"{source} has no replicate {replicate}: see repro inspect {source}")
    index, file = artifact[key].astype(np.int64), io.BytesIO()
    if suffix == ".npy":
        np.save(file, index)
    elif suffix == ".pt":
        import torch  # here: it takes seconds

        torch.save(torch.from_numpy(index), file)
    elif suffix == ".json":
        file.write(f"{json.dumps(index.tolist())}\n".encode())
    elif suffix in (".csv", ".txt"):
        file.write("\n".join(["index"] * (suffix == ".csv") + [*map(str, index), ""]).encode())
    else:
        raise UsageError(
            f"--out {target} ends in {suffix or 'nothing'}: take .npy, .csv, .txt, .json or .pt for indices"
        )
    require_replaceable(target, "indices", file.getvalue())
    write_whole(target, [file.getvalue()])
    return target


def suffix_of(target: Path) -> str:
    """The suffix of TABLES or NETWORKS that a target has; .csv for a folder or no suffix. Raises UsageError."""
    suffix = "" if target.is_dir() else target.suffix.lower()
    if suffix not in ("", *TABLES, *NETWORKS):
        raise UsageError(
            f"--out {target} ends in {suffix}: take .csv or .parquet for a table, .pt or .safetensors for a network"
        )
    return suffix or ".csv"


def _parquet(frame: pd.DataFrame, sources: dict | list[dict]) -> bytes:
    import pyarrow  # here, because CSV does not need it
    import pyarrow.parquet

    # text, because a column of Parquet has one type, and artifacts may hold text and numbers under one name
    names = [name for name, dtype in frame.dtypes.items() if pd.api.types.is_object_dtype(dtype)]
    mixed = {name: frame[name].map(str, na_action="ignore").astype("str") for name in names}
    table = pyarrow.Table.from_pandas(frame.assign(**mixed), preserve_index=False)
    file = io.BytesIO()
    metadata = {**table.schema.metadata, b"repro": json.dumps(sources)}
    pyarrow.parquet.write_table(table.replace_schema_metadata(metadata), file)
    return file.getvalue()
