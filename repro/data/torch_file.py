"""What ``torch.save`` or safetensors wrote, read without running anything that is in the file.

PyTorch's restricted unpickler reads it. NumPy's arrays and numbers are added to what it knows; an object of any other
class (options of a training program, a whole module) becomes an empty stand-in, so that the tensors beside it are read.
"""

import re
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch

from repro.errors import UsageError
from repro.store import file_kinds
from repro.store.files import open_regular

_DTYPES = [kind for kind in vars(np.dtypes).values() if isinstance(kind, type)]
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")  # as NumPy 1 and NumPy 2 name it
_NUMPY = "is an archive of NumPy arrays, not a file of torch.save: write one with torch.save(model.state_dict(), PATH)"
_ADVICE = {
    file_kinds.LFS: "fetch the file itself with git lfs pull",
    file_kinds.PAGE: "download the file itself",
    file_kinds.GZIP: "unpack it",
    file_kinds.OURS: "take a network from it by repro export",
}


class Foreign:
    """Stands for an object of a class that is not imported."""

    def __init__(self, *_, **__):
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


def read(path: str | Path) -> object:
    """The object in a file of ``torch.save`` or safetensors, on the CPU; arrays as NumPy's.

    Raises UsageError, in one sentence that says what the file is, where it is neither.
    """
    path = Path(path)
    try:
        with open_regular(path) as file:
            start = file.read(64)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist: check the path") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read ({error.strerror or error}): give a file of torch.save") from None
    if not start:
        raise UsageError(f"{path} is empty (0 bytes): copy or download it again")
    kind = file_kinds.described(start)
    if kind == file_kinds.SAFETENSORS:
        return _safetensors(path)
    if kind not in (file_kinds.ZIP, file_kinds.PICKLE):
        advice = _ADVICE.get(kind, "write one with torch.save(model.state_dict(), PATH)")
        raise UsageError(f"{path} is {kind}, not a file of torch.save: {advice}")
    return _pickled(path, zipped=kind == file_kinds.ZIP)


def _safetensors(path: Path) -> dict[str, torch.Tensor]:
    import safetensors.torch  # comes with timm

    try:
        return safetensors.torch.load_file(path)
    except Exception as error:  # its own class, which is not exported everywhere
        raise UsageError(f"{path} is a damaged or incomplete safetensors file ({error}): copy it again") from None


def _pickled(path: Path, *, zipped: bool) -> object:
    known = [(each, f"{each.__module__}.{each.__name__}") for each in (np.ndarray, np.dtype, *_DTYPES)]
    for name in ("_reconstruct", "scalar"):  # what makes arrays and numbers again
        known += [(getattr(np._core.multiarray, name), f"{module}.{name}") for module in _MULTIARRAY]
    try:
        if zipped:
            others = set(torch.serialization.get_unsafe_globals_in_checkpoint(path)) - {name for _, name in known}
            known += [(type(name.rpartition(".")[2], (Foreign,), {}), name) for name in others]
        with torch.serialization.safe_globals(known), warnings.catch_warnings(action="ignore"):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zip, pickle and torch fail each in their own way
        fault = _NUMPY if zipped and _is_of_numpy(path) else _fault(str(error), zipped)
        raise UsageError(f"{path} {fault}") from None


def _is_of_numpy(path: Path) -> bool:
    """Whether a zip file is an .npz."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            return bool(names) and all(name.endswith(".npy") for name in names)
    except (OSError, ValueError, zipfile.BadZipFile):
        return False


def _fault(text: str, zipped: bool) -> str:
    """What is wrong with a file that torch could not read, without torch's advice to run what is in it."""
    if "torchscript" in text.lower():
        return "is a TorchScript program, not a state dict: write torch.save(model.state_dict(), PATH)"
    if named := re.search(r"GLOBAL (\S+) (?:was not|whose module)", text):
        return f"calls for {named[1]}, which is not run: write the tensors alone, torch.save(model.state_dict(), PATH)"
    if zipped:
        return "is damaged or incomplete, or no file of torch.save: copy or download it again"
    return "is damaged, or no file of torch.save: write one with torch.save(model.state_dict(), PATH)"
