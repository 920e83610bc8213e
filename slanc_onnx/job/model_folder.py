"""Model folders: which models a configuration makes one thing of, and which files come along."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from onnx import TensorProto

from slanc_onnx.errors import SlancError
from slanc_onnx.graph import all_tensors, external_range, is_of_a_draft, load_model

CONFIG = "genai_config.json"
_NAMES_MODEL = "filename"  # the key, of a decoder, an encoder, each part of a pipeline


@dataclass(frozen=True)
class ModelFolder:
    """A folder of models that belong together, as onnxruntime-genai loads them.

    Attributes:
        path: The folder.
        models: The models that its configuration names, in its order, each relative to the folder.
        along: All other files that are no data of these models, relative to the folder, sorted.
        data: The files with the weights of each model, by model.
    """

    path: Path
    models: tuple[Path, ...]
    along: tuple[Path, ...]
    data: Mapping[Path, tuple[Path, ...]]

    def untouched(self, model: Path) -> tuple[Path, ...]:
        """The files of a model that is to stay as it is: itself and its data."""
        return (model, *self.data[model])


def read_model_folder(path: Path) -> ModelFolder:
    """Read which models a folder is made of.

    Raises:
        SlancError: its configuration is missing, names no models, or models that are not there.
    """
    models = _named(path)
    data = {model: _data_of(path, model) for model in models}
    taken = {*models, *(file for files in data.values() for file in files)}
    files = sorted(_files(path))
    kept = set[Path]()  # data that another model refers to as well
    for file in files:
        if file.suffix == ".onnx" and file not in taken:
            try:
                kept.update(_data_of(path, file))
            except SlancError:  # whatever it is, it comes along as it is
                continue
    along = tuple(file for file in files if file not in taken - kept.difference(models))
    return ModelFolder(path, models, along, data)


def _named(folder: Path) -> tuple[Path, ...]:
    """The models that the configuration names, each once."""
    file = folder / CONFIG
    if not file.is_file():
        raise SlancError(
            f"{folder}: is a folder without {CONFIG}, which says what onnxruntime-genai loads from "
            "it. Give the .onnx file itself, or several of them."
        )
    try:
        names = list(_names(json.loads(file.read_text(encoding="utf-8"))))
    except (ValueError, RecursionError) as error:
        raise SlancError(f"{file}: is not JSON ({error}). Copy it again.") from error
    if not names:
        raise SlancError(f"{file}: names no model under {_NAMES_MODEL!r}. Export the folder again.")
    for name in names:
        normal = PurePath(os.path.normpath(name))
        if normal.is_absolute() or ".." in normal.parts:
            raise SlancError(
                f"{file}: names {name!r}, which lies outside of the folder. Move the model into it "
                "and change the name there."
            )
        if not (folder / name).is_file():
            raise SlancError(f"{file}: names {name!r}, which is not there. Copy it into {folder}.")
    return tuple(dict.fromkeys(Path(os.path.normpath(name)) for name in names))


def _names(config: Any) -> Iterator[str]:
    """The file names of models, wherever they stand."""
    if isinstance(config, list):
        for each in config:
            yield from _names(each)
    elif isinstance(config, Mapping):
        for key, value in config.items():
            if key == _NAMES_MODEL and isinstance(value, str) and value:
                yield value
            else:
                yield from _names(value)


def _data_of(folder: Path, model: Path) -> tuple[Path, ...]:
    """The files that a model keeps its weights in, relative to the folder."""
    path = folder / model
    found = {
        external_range(tensor, path.parent)[0]
        for tensor in all_tensors(load_model(path))
        if tensor.data_location == TensorProto.EXTERNAL
    }
    names = (Path(os.path.normpath(file.relative_to(folder))) for file in found - {path})
    return tuple(sorted(names))


def _files(folder: Path) -> Iterator[Path]:
    """All files in a folder and below, relative to it, but for those of drafts.

    Raises:
        SlancError: a folder in it is a link, or something is no file.
    """

    def refused(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=refused):
        for name in (*folders, *files):
            path = Path(place, name)
            if name in folders and path.is_symlink():
                raise SlancError(
                    f"{path}: is a link to a folder. Copy the folder with what it leads to first."
                )
            if name in files and not path.is_file():
                raise SlancError(f"{path}: is no file that can be copied. Remove it first.")
        folders[:] = [name for name in folders if not is_of_a_draft(Path(name))]
        yield from (
            Path(place, name).relative_to(folder) for name in files if not is_of_a_draft(Path(name))
        )
