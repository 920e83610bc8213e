"""Save a rewritten model beside its data: written in full, validated, then put in place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import onnx
from onnx import TensorProto

from slanc_onnx.errors import SlancError
from slanc_onnx.graph.copying import copy_file, write_spliced
from slanc_onnx.graph.inline import LARGEST, Span, pieces_of
from slanc_onnx.graph.journal import clear_left_overs, close_journal, mentions, write_journal
from slanc_onnx.graph.load import all_tensors, external_location
from slanc_onnx.graph.new_data import ExternalData, NewData
from slanc_onnx.graph.own_data import OwnData, holds_what_it_says, is_own_name, own_name
from slanc_onnx.graph.temporary import (
    locked,
    mode_of,
    not_a_file,
    real_path,
    remove,
    same_content,
    same_place,
    surely,
    sync_folder,
    temporary,
)
from slanc_onnx.progress import Meter, Progress, no_progress

# Windows replaces no file that is open, and none that is mapped: access denied, sharing, mapped.
_HELD_BY_OTHERS = (5, 32, 1224)


class Draft:
    """An output that is written, but not in its place before `keep`.

    In the input's folder the output refers to the same data files; into another folder they are
    copied, without taking space where the file system can share blocks. (Hard links would be free,
    but onnx >= 1.23 refuses to load a data file that has more than one, and that would break the
    input as well.) Data files get their names before the .onnx does, and only names that are free:
    until then no model refers to them, and after it the output is whole. As a context it leaves
    nothing behind but what was kept.

    Args:
        source: The file that the model was loaded from.
        output: The file to write.
        model: The model as it was loaded.
        external: Whether its data lies in a file of its own; see `NewData`.

    Attributes:
        path: The .onnx under its temporary name, in the folder of the output.

    Raises:
        SlancError: the output would replace the input or a data file, or cannot be written there.
    """

    def __init__(
        self,
        source: Path,
        output: Path,
        model: onnx.ModelProto,
        external: ExternalData = "auto",
    ) -> None:
        self._locations = _data_locations(model) - {source.name}
        check_output(source, output, self._locations)
        self.source, self.output, self.folder = source, output, output.parent
        self.path = temporary(self.folder, "onnx")
        self._own: OwnData | None = None
        self._new = NewData(source, self.own_data, external)
        self._temporary = [self.path]
        self._journals: list[Path] = []
        self._made: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        surely(self._tidy)

    @contextmanager
    def written(self) -> Iterator[None]:
        """While it is written: a file system that fails becomes a sentence about the output."""
        try:
            yield
        except OSError as error:
            advice = "Give another -o."
            if getattr(error, "winerror", None) in _HELD_BY_OTHERS:
                advice = "Close what has it open, or give another -o."
            message = f"{self.output}: cannot be written ({error}). {advice}"
            raise SlancError(message) from error

    def own_data(self) -> OwnData:
        """The data file of the output's own; no more readable than those that it is made from."""
        if self._own is None:
            self._make_folder()
            modes = [(self.source.parent / name).stat().st_mode for name in self._locations]
            self._own = OwnData(self.folder, _shared(modes))
            self._temporary.append(self._own.path)
        return self._own

    def new_data(self) -> NewData:
        """Where the changed tensors of the model go."""
        return self._new

    def write(self, model: onnx.ModelProto, progress: Progress = no_progress) -> None:
        """Write the model under its temporary name, and its data files under their own.

        Args:
            model: The rewritten model; external tensors of `own_data` get its name.
            progress: Called with the share of the data that is copied.

        Raises:
            SlancError: a different data file is in the way, or the folder cannot be written.
        """
        with self.written():
            self._make_folder()
            self._new.move(model)
            placed = self._name_own_data(model)
            inside = {self.source.name, self._new.name}
            locations = _data_locations(model).difference(placed, inside)
            pieces, mode = _spliced(model, inside), mode_of(self.output)
            write_spliced(self.path, pieces, self.source, self._new.made, mode)
            if real_path(self.folder) != real_path(self.source.parent):
                placed |= self._copy(sorted(locations), progress)
            self._place(placed, locations)

    def keep(self) -> None:
        """Put the output in its place, and remove the data file of its own that it had before.

        Raises:
            SlancError: it cannot be put there; what was there is as it was.
        """
        with self.written(), locked(self.folder):
            refuse_what_is_no_file("-o", self.output)
            unused = self._unused_afterwards()
            if unused:
                self._note(unused, [])
            os.replace(self.path, self.output)
            sync_folder(self.folder)

    def _make_folder(self) -> None:
        missing = [f for f in (self.folder, *self.folder.parents) if not f.exists()]
        for folder in reversed(missing):
            self._made.append(folder)
            try:
                os.mkdir(folder)
            except FileExistsError:  # by another run, just now
                self._made.remove(folder)
        clear_left_overs(self.folder)

    def _name_own_data(self, model: onnx.ModelProto) -> dict[str, Path]:
        """Give the own data its name in the model; where it has to be put in place, by that."""
        digest = "" if self._own is None else self._own.finish()
        if self._own is None or not digest:
            return {}
        number = 0
        while not self._is_free(own_name(self.output, digest, number), self._own.path):
            number += 1
        name = own_name(self.output, digest, number)
        for tensor in all_tensors(model):
            for entry in tensor.external_data:
                if entry.key == "location" and entry.value == self._own.name:
                    entry.value = name
        return {name: self._own.path}

    def _is_free(self, name: str, data: Path) -> bool:
        """Whether nothing has this name, or what has it holds the same."""
        same = same_content(data, self.folder / name)
        return name not in self._locations if same is None else same

    def _copy(self, locations: list[str], progress: Progress) -> dict[str, Path]:
        """Copy data files under temporary names; those that are there already are not.

        Raises:
            SlancError: a different file of that name is there, or its folder leads elsewhere.
        """
        sizes = {name: (self.source.parent / name).stat().st_size for name in locations}
        meter = Meter("copying data", sum(sizes.values()), progress)
        copies = {}
        for name in locations:
            source, target = self.source.parent / name, self.folder / name
            if not real_path(target).parent.is_relative_to(real_path(self.folder)):
                raise SlancError(
                    f"{target}: its folder is a link to elsewhere. Give -o in another folder."
                )
            same = same_content(source, target)
            if same is not None:
                _refuse_unless(same, target)
                meter.add(sizes[name])
                continue
            copies[name] = temporary(self.folder, "data")
            self._temporary.append(copies[name])
            copy_file(source, copies[name], meter)
        return copies

    def _place(self, files: Mapping[str, Path], locations: Iterable[str]) -> None:
        """Give data files their names, where no other file has them by now.

        From here on whoever clears the folder sees that this model refers to `locations`.
        """
        folders = {
            folder.relative_to(self.folder).as_posix()
            for name in files
            for folder in (self.folder / name).parents
            if folder.is_relative_to(self.folder) and not folder.exists()
        }
        if files:
            self._note(files, sorted(folders))
        with locked(self.folder):
            for name, file in files.items():
                target = self.folder / name
                if os.path.lexists(target):
                    _refuse_unless(same_content(file, target), target)
                    continue
                for folder in sorted(folders):
                    with suppress(FileExistsError):
                        os.mkdir(self.folder / folder)
                os.replace(file, target)
            for name in locations:
                if not (self.folder / name).is_file():
                    raise FileNotFoundError(f"{name}: was just removed")
        for place in {(self.folder / name).parent for name in files}:
            sync_folder(place)

    def _note(self, files: Mapping[str, Path], folders: list[str]) -> None:
        journal = temporary(self.folder, "journal")
        self._journals.append(journal)
        write_journal(journal, files, folders)

    def _unused_afterwards(self) -> dict[str, Path]:
        """The data that is the old output's own, and not the new one's."""
        return {
            file.name: file
            for file in self.folder.iterdir()
            if is_own_name(file.name, self.output)
            and mentions(self.output, os.fsencode(file.name))
            and not mentions(self.path, os.fsencode(file.name))
            and holds_what_it_says(file)
        }

    def _tidy(self) -> None:
        if self._own is not None:
            self._own.close()
        for file in self._temporary:
            remove(file)
        if self._journals:
            with locked(self.folder):
                for journal in self._journals:
                    close_journal(journal)
        clear_left_overs(self.folder)  # those that other runs left while this one used the files
        for folder in reversed(self._made):
            with suppress(OSError):  # it holds something
                folder.rmdir()


def _data_locations(model: onnx.ModelProto) -> set[str]:
    """The data files that a model refers to."""
    return {
        external_location(tensor)
        for tensor in all_tensors(model)
        if tensor.data_location == TensorProto.EXTERNAL
    }


def _shared(modes: Iterable[int]) -> int:
    """What all of these modes allow."""
    shared = 0o666
    for mode in modes:
        shared &= mode
    return shared


def refuse_what_is_no_file(option: str, path: Path) -> None:
    """Refuse to replace anything but a file: a device would be gone, a link would lead nowhere.

    Raises:
        SlancError: something else stands there.
    """
    what = not_a_file(path)
    if what:
        raise SlancError(f"{option} {path}: is {what}. Give the name of a file.")


def check_output(source: Path, output: Path, locations: set[str] | None = None) -> None:
    """Refuse an output that would overwrite a file of the input.

    Args:
        source: The input.
        output: The file to write.
        locations: Data files of the input, relative to its folder.

    Raises:
        SlancError: the output would overwrite one, is no file, or its folder cannot be written to.
    """
    if output.exists() and output.samefile(source):
        raise SlancError(f"{output}: is the input itself. Give another -o.")
    refuse_what_is_no_file("-o", output)
    folder = next((f for f in output.absolute().parents if f.exists()), None)
    if folder is not None and not folder.is_dir():
        raise SlancError(f"{output}: {folder.name} is no folder. Give another -o.")
    if folder is None or not os.access(folder, os.W_OK):
        raise SlancError(f"{output}: its folder cannot be written to. Give another -o.")
    for location in locations or ():
        for folder in (source.parent, output.parent):
            if same_place(output, folder / location):
                raise SlancError(f"{output}: is the model's data file. Give another -o.")


def data_behind_links(model: onnx.ModelProto, folder: Path) -> list[str]:
    """The data files of a model that a link leads out of its folder to."""
    return sorted(
        location
        for location in _data_locations(model)
        if not real_path(folder / location).is_relative_to(real_path(folder))
    )


def check_data(
    source: Path, output: Path, model: onnx.ModelProto, copies: dict[Path, Path]
) -> dict[Path, Path]:
    """Refuse to take the name of another data file in the output's folder.

    Args:
        source: The input.
        output: The file to write.
        model: The model as it was loaded.
        copies: The data files, by where they are copied to, of outputs that are written before
            this one; those of this one are added.

    Returns:
        The data files of the model, by where they lie beside the output.

    Raises:
        SlancError: a different one is there, or will be.
    """
    found = {output.parent / n: source.parent / n for n in _data_locations(model) - {source.name}}
    if real_path(output.parent) == real_path(source.parent):
        return found
    for target, data in found.items():
        earlier = copies.setdefault(real_path(target), data)
        for there in (target, earlier):
            if (
                real_path(data) != real_path(there)
                and (same := same_content(data, there)) is not None
            ):
                _refuse_unless(same, target)
    return found


def _spliced(model: onnx.ModelProto, inside: set[str]) -> list[bytes | Span]:
    """What the file of a model holds: bytes, and ranges of the files that become part of it.

    Raises:
        SlancError: it is larger than protobuf reads.
    """
    try:
        found = pieces_of(model.SerializeToString(), inside)
    except Exception as error:
        raise _too_large(str(error)) from error
    spans = [piece for piece in found if isinstance(piece, Span)]
    refer = [t for t in all_tensors(model) if t.data_location == TensorProto.EXTERNAL]
    assert len(spans) >= sum(external_location(t) in inside for t in refer)
    size = sum(p.length if isinstance(p, Span) else len(p) for p in found)
    if size > LARGEST:
        raise _too_large(f"it has {size} bytes")
    return found


def _too_large(why: str) -> SlancError:
    return SlancError(
        f"the model cannot be written as one file ({why}). Files over 2 GiB need external "
        "data: export the model with it."
    )


def _refuse_unless(same: bool | None, target: Path) -> None:
    """Refuse to take the name of a data file that does not hold the same.

    Raises:
        SlancError: it does not, or is a link to nothing.
    """
    if not same:
        raise SlancError(
            f"{target}: another data file of this name is in the way. Give -o in another folder."
        )
