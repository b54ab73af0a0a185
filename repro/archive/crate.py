"""An archive's description as an RO-Crate 1.3 (https://w3id.org/ro/crate/1.3), by the `rocrate` library.

The uploader adds what the program does not know: people with ORCIDs, their institutions, a publisher, contacts.
"""

import json
from pathlib import Path

from rocrate.model import ContextEntity, Preview, SoftwareApplication
from rocrate.rocrate import ROCrate

from repro.archive.zipped import METADATA, PREVIEW, SUMS

TITLE = "Lottery Tickets on a Data Diet"
PAPER = "https://arxiv.org/abs/2206.01278"
CITED = (
    "Mansheej Paul, Brett W. Larsen, Surya Ganguli, Jonathan Frankle, Gintare Karolina Dziugaite: Lottery Tickets on a "
    "Data Diet: Finding Initializations with Sparse Trainable Networks. NeurIPS 2022. arXiv:2206.01278"
)
LICENCE = "https://spdx.org/licenses/MIT"
KEYWORDS = ["lottery ticket hypothesis", "iterative magnitude pruning", "linear mode connectivity", "reproducibility"]
FORMATS = {
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".json": "application/json",
    ".h5": "application/x-hdf5",
    ".csv": "text/csv",
    ".md": "text/markdown",
    ".txt": "text/plain",
    "": "text/plain",
}
KINDS = {
    "score": "scores of the training images",
    "subset": "subsets of the training images",
    "pretrain": "rewind points: networks after pre-training",
    "imp": "iterative magnitude pruning: masks, weights and accuracies by level",
    "branch": "the same with other masks",
    "barrier": "loss and error on the lines between children of rewind points",
    "warmup": "learning-rate warm-up on subsets",
    "gradients": "agreement of mini-batch gradients",
}
DATA = {
    "cifar10": ("CIFAR-10", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "cifar100": ("CIFAR-100", "https://www.cs.toronto.edu/~kriz/cifar.html"),
    "cinic10": ("CINIC-10", "https://datashare.ed.ac.uk/handle/10283/3192"),
    "digits": (
        "scikit-learn's digits (Optical Recognition of Handwritten Digits)",
        "https://archive.ics.uci.edu/dataset/80/optical+recognition+of+handwritten+digits",
    ),
}


def describe(recipe: dict, sizes: dict[str, int], digests: dict[str, str]) -> tuple[bytes, bytes]:
    """(``ro-crate-metadata.json``, ``ro-crate-preview.html``) of an archive.

    Arguments:
        recipe: the content of ``recipe.json``.
        sizes, digests: name -> bytes and sha256 of each file but the metadata, the preview and the list of checksums,
            which has the sha256 of the metadata, so that the metadata cannot have its.
    """
    crate = ROCrate()
    title = _title(recipe)
    who = "who wrote the program; see LICENSE and CITATION.cff of its source"
    people = _entity(crate, "#authors", "Organization", "the authors of this artifact", who)
    paper = _entity(crate, PAPER, "ScholarlyArticle", TITLE, CITED)
    licence = _entity(crate, LICENCE, "CreativeWork", "MIT License", "the licence of the program and of its results")
    root = {
        "name": title,
        "description": f"{title}: what was plotted and judged, with every artifact that it was computed from. "
        f"`repro verify --archive FILE` computes it again and compares. Results of {CITED}",
        "datePublished": recipe["finished"][:10],
        "license": licence,
        "author": people,
        "creator": people,
        "citation": paper,
        "keywords": [*KEYWORDS, *recipe["data_sha256"]],
    }
    for name, value in root.items():
        crate.root_dataset[name] = value
    crate.metadata["name"], crate.metadata["description"] = "RO-Crate metadata", "the description of this archive"
    # 64 digits, 2 spaces, the name and the end of the line, of each file but itself
    listed = sum(67 + len(name) for name in (*sizes, METADATA, PREVIEW))
    files = {name: _file(crate, recipe, name, size, digests[name]) for name, size in sizes.items()}
    _file(crate, recipe, SUMS, listed)
    made = [file for name, file in files.items() if name.startswith("results/")]
    _action(crate, recipe, title, agent=people, licence=licence, made=made)
    generated = json.dumps(crate.metadata.generate(), indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    return generated.encode(), Preview(crate).generate_html().encode()


def _title(recipe: dict) -> str:
    asked = recipe["asked"]
    name = "all figures" if asked["name"] == "all" else asked["name"].capitalize().replace("Figure", "Figure ")
    control = f", control {asked['control']} (has to fail)" if asked["control"] else ""
    return f"{TITLE}, reproduced: {name} at {asked['scale']} scale{control}, on {', '.join(recipe['data_sha256'])}"


def _entity(crate: ROCrate, identifier: str, kind, name: str, description: str, **more):
    properties = {"@type": kind, "name": name, "description": description, **more}
    return crate.add(ContextEntity(crate, identifier, properties=properties))


def _file(crate: ROCrate, recipe: dict, name: str, size: int, digest: str | None = None):
    properties = {
        "name": name.removeprefix("results/"),
        "description": _about(recipe, name),
        "contentSize": str(size),
        "encodingFormat": FORMATS[Path(name).suffix],
        **({"sha256": digest} if digest else {}),
    }
    return crate.add_file(name, dest_path=name, properties=properties)


def _about(recipe: dict, name: str) -> str:
    known = {
        "recipe.json": "what was asked for, and recipe, inputs, identity and provenance of every artifact",
        "requirements.txt": "the packages of the program, locked by hash",
        "LICENSE": "the licence",
        SUMS: "sha256 of every other file, for sha256sum -c",
    }
    if name in known:
        return known[name]
    if name in recipe["artifacts"]:
        record = recipe["artifacts"][name]
        about = KINDS.get(record["kind"], "measurements")
        return f"{record['kind']} artifact of identity {record['identity']}: {about}"
    stem, suffix = Path(name).stem, Path(name).suffix
    if stem.endswith("-verdicts"):
        return "verdicts on the paper's claims" + (" for programs" if suffix == ".json" else ", a sentence on each")
    return f"{stem}: {'what is plotted' if suffix == '.csv' else 'as drawn'}"


def _action(crate: ROCrate, recipe: dict, title: str, *, agent, licence, made: list) -> None:
    """The run of the program that made the results from the data sets."""
    by = recipe["archived_by"]
    name, _, version = by["program"].partition(" ")
    revision = by["git_revision"]
    # the program has no address of its own: Software Heritage names a git revision, a package URL a version
    address = f"swh:1:rev:{revision}" if revision else f"pkg:generic/{name}@{version}"
    told = f"git revision {revision or 'unknown'}{', changed since' if by['git_dirty'] else ''}"
    about = f"the program that drew, judged and archived ({told}); recipe.json has that of each artifact"
    properties = {"name": name, "version": version, "url": address, "author": agent, "license": licence}
    properties["description"] = about
    program = crate.add(SoftwareApplication(crate, f"#{name}", properties=properties))
    data = []
    for dataset, digests in recipe["data_sha256"].items():
        called, url = DATA.get(dataset, (dataset, None))
        told = f"not in this archive; sha256 of its images and labels: {', '.join(digests) or 'not recorded'}"
        data.append(_entity(crate, f"#data-{dataset}", "Dataset", called, told, **({"url": url} if url else {})))
    properties = {
        "@type": "CreateAction",
        "name": title,
        "startTime": recipe["started"],
        "endTime": recipe["finished"],
        "description": "from the first command that made an artifact to the end of the last",
        "actionStatus": "http://schema.org/CompletedActionStatus",
    }
    used = data[0] if len(data) == 1 else data
    crate.root_dataset["mentions"] = crate.add_action(program, "#run", object=used, result=made, properties=properties)
