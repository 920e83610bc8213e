"""Save a rewritten model beside its data, atomically."""

from __future__ import annotations

import errno
import filecmp
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import TensorProto

from slanc_onnx.errors import SlancError
from slanc_onnx.graph.load import all_tensors, external_location
from slanc_onnx.graph.own_data import OwnData
from slanc_onnx.progress import Meter, Progress, no_progress

COPIED_AT_ONCE = 1 << 26  # bytes


def save_model(
    model: onnx.ModelProto,
    source: Path,
    output: Path,
    own: OwnData | None = None,
    progress: Progress = no_progress,
) -> None:
    """Write a model that was loaded from `source`; its external data files stay as they are.

    In the input's folder the output refers to the same data files; into another folder they are
    copied, without taking space where the file system can share blocks. (Hard links would be free,
    but onnx >= 1.23 refuses to load a data file that has more than one, and that would break the
    input as well.) The .onnx itself is written to a temporary file first. An interruption leaves
    what was there before.

    Args:
        model: The model.
        source: The file that it was loaded from.
        output: The file to write.
        own: The output's own data file; it is kept as soon as nothing else can fail.
        progress: Called with the share of the data that is copied.

    Raises:
        SlancError: the output would replace the input or a data file, a different data file is in
            the way, or the folder cannot be written.
    """
    locations = {
        external_location(tensor)
        for tensor in all_tensors(model)
        if tensor.data_location == TensorProto.EXTERNAL
    }.difference({own.name} if own is not None else ())
    check_output(source, output, locations)
    brought: list[Path] = []
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        if output.parent.resolve() != source.parent.resolve():
            meter = Meter("copying data", _bytes_of(source.parent, locations), progress)
            for location in sorted(locations):
                if _bring(source.parent / location, output.parent / location, meter):
                    brought.append(output.parent / location)
        serialized = _serialized(model)
        if own is not None:
            own.keep()
        write_atomically(output, serialized)
    except OSError as error:
        _remove(brought)
        raise SlancError(f"{output}: cannot be written ({error}). Give another -o.") from error
    except BaseException:
        _remove(brought)
        raise


def _bytes_of(folder: Path, locations: Iterable[str]) -> int:
    return sum((folder / location).stat().st_size for location in locations)


def _remove(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def check_output(source: Path, output: Path, locations: set[str] | None = None) -> None:
    """Refuse an output that would overwrite a file of the input.

    Args:
        source: The input.
        output: The file to write.
        locations: Data files of the input, relative to its folder.

    Raises:
        SlancError: the output would overwrite one, is no file, or its folder cannot be written to.
    """
    if output.exists() and not output.is_file():
        what = "a folder" if output.is_dir() else "no regular file"
        raise SlancError(f"{output}: is {what}. Give -o the name of a file.")
    folder = next((f for f in output.absolute().parents if f.exists()), None)
    if folder is None or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise SlancError(f"{output}: its folder cannot be written to. Give another -o.")
    if output.exists() and output.samefile(source):
        raise SlancError(f"{output}: is the input itself. Give another -o.")
    for location in locations or ():
        for folder in (source.parent, output.parent):
            if output.resolve() == (folder / location).resolve():
                raise SlancError(f"{output}: is the model's data file. Give another -o.")


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that at any moment its content is the old or the new one."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666 & ~umask
        os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def _serialized(model: onnx.ModelProto) -> bytes:
    try:
        return bytes(model.SerializeToString())
    except Exception as error:
        raise SlancError(
            f"the model cannot be written as one file ({error}). Files over 2 GiB need external "
            "data: export the model with it."
        ) from error


def _bring(source: Path, target: Path, meter: Meter) -> bool:
    """Copy a data file; returns False where it is there already.

    Raises:
        SlancError: a different file of that name is there.
    """
    if target.exists():
        if target.samefile(source) or filecmp.cmp(source, target, shallow=False):
            return False
        raise SlancError(
            f"{target}: another data file of this name is in the way. Give -o in another folder."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        with source.open("rb") as read, temporary.open("xb") as write:
            while count := _copied(read.fileno(), write.fileno()):
                meter.add(count)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _copied(source: int, target: int) -> int:
    """Copy the next bytes from one file to another; returns how many, 0 at the end.

    The kernel copies, and shares the blocks where the file system can.
    """
    try:
        return os.copy_file_range(source, target, COPIED_AT_ONCE)
    except (AttributeError, OSError) as error:
        known = (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
        if isinstance(error, OSError) and error.errno not in known:
            raise
    data = os.read(source, COPIED_AT_ONCE)
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(target, rest) :]
    return len(data)
