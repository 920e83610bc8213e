"""Sizes: the shapes of inputs that are made, where the file leaves axes open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from slanc_onnx.feed import UNIT, Feed, Values
from slanc_onnx.graph import Array, InputSpec
from slanc_onnx.options import Options

# Height and width, the cheapest first: convolutions cost as many positions, attention their square.
IMAGE_SIZES = ((32, 128), (64, 64), (224, 224), (32, 32), (384, 384), (512, 512))
_SAMPLES = 4000  # of audio: enough for one frame of the usual stack of strided convolutions
_COLOURS = 4  # a last axis of at most so many elements holds the channels of an image


@dataclass(frozen=True)
class Sizes:
    """The sizes of the axes that a file leaves open.

    Attributes:
        batch: Of first axes.
        sequence: Of sequence axes.
        image: Height and width of images.
    """

    batch: int = 1
    sequence: int = 16
    image: tuple[int, int] = IMAGE_SIZES[0]


@dataclass(frozen=True, eq=False)
class Said:
    """What the user says of inputs.

    Attributes:
        feeds: Their values, by name.
        dims: Sizes by the name of an axis, or by "INPUT:AXIS".
        given: Arrays by name, which are fed as they are.
        assumed: Of floats with three or more axes of which nothing is said.
        zeros: The names of integer inputs of which nothing is said that are fed with zeros, as an
            index of 0 always fits.
    """

    feeds: Mapping[str, Feed] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    given: Mapping[str, Array] = field(default_factory=dict)
    assumed: Feed = UNIT
    zeros: frozenset[str] = frozenset()

    @staticmethod
    def of(options: Options) -> Said:
        """What options say."""
        files = {n: f.array for n, f in options.feeds.items() if isinstance(f, Values)}
        return Said(options.feeds, options.dims, {**files, **(options.inputs or {})})

    def leaves_open(self, spec: InputSpec) -> bool:
        """Whether it is an input of floats of whose values nothing is said."""
        known = spec.name in self.feeds or spec.name in self.given
        return spec.is_float and not spec.is_cache and not known


def open_axes(spec: InputSpec) -> Iterator[tuple[int, str, str]]:
    """The axes that a file leaves open: the axis, its name ("" for none), and INPUT:AXIS."""
    for axis, dim in enumerate(spec.dims):
        if isinstance(dim, str):
            yield axis, dim, f"{spec.name}:{axis}"


def shapes_of(
    specs: Sequence[InputSpec], sizes: Sizes, said: Said | None = None
) -> dict[str, tuple[int, ...]]:
    """The shapes by name: axes with one name have one size.

    What is said of an axis tells it before all, then arrays that are given, then token ids, and a
    first axis before later ones. Past lengths and what else a cache has are its own, unless they
    are said: layers with a sliding window share their names.
    """
    said = said or Said()
    own = {spec.name: _shape(spec, sizes, said) for spec in specs}
    named = [
        (spec.name not in said.given, not spec.is_text, axis > 0, spec.name, axis, dim)
        for spec in specs
        for axis, dim, place in open_axes(spec)
        if dim.isidentifier() and not (spec.is_cache and axis) and place not in said.dims
    ]
    size = dict(said.dims)
    for *_, name, axis, dim in sorted(named, key=lambda each: each[:3]):
        size.setdefault(dim, own[name][axis])
    shapes = {name: list(shape) for name, shape in own.items()}
    for *_, name, axis, dim in named:
        shapes[name][axis] = size[dim]
    arrays = {n: v.shape for n, v in said.given.items() if n in shapes}
    return {name: tuple(shape) for name, shape in shapes.items()} | arrays


def _shape(spec: InputSpec, sizes: Sizes, said: Said) -> tuple[int, ...]:
    if spec.name in said.given:
        return said.given[spec.name].shape
    image = _image_axes(spec)

    def of(axis: int, dim: int | str) -> int:
        if isinstance(dim, int):
            return dim
        told = said.dims.get(f"{spec.name}:{axis}", said.dims.get(dim))
        if told is not None:
            return told
        low = dim.lower()
        if "+" in dim and any(part.strip() in said.dims for part in dim.split("+")):
            return sum(of(axis, part.strip()) for part in dim.split("+"))
        if "+" in dim or "total" in low:
            return sizes.sequence
        if "past" in low:
            return spec.sliding_window
        if axis == 0:
            return sizes.batch
        if spec.is_cache:
            return spec.head_width or sizes.sequence
        if image:
            return 3 if axis not in image else sizes.image[image.index(axis)]
        if (spec.is_float or spec.is_sampled) and len(spec.dims) == 2:
            return _SAMPLES
        return sizes.sequence

    return tuple(of(axis, dim) for axis, dim in enumerate(spec.dims))


def _image_axes(spec: InputSpec) -> tuple[int, int] | None:
    """The axes of height and width; None for what is no image."""
    holds_pixels = spec.is_float or spec.is_sampled
    if not holds_pixels or spec.is_cache or len(spec.dims) != 4:
        return None
    last = spec.dims[3]
    return (1, 2) if isinstance(last, int) and last <= _COLOURS else (2, 3)


def takes_images(specs: Sequence[InputSpec], said: Said) -> bool:
    """Whether the size of an image is open."""
    for spec in specs:
        axes = _image_axes(spec)
        if axes is not None and spec.name not in said.given:
            open_ones = [(a, d, p) for a, d, p in open_axes(spec) if a in axes]
            if any(d not in said.dims and p not in said.dims for _, d, p in open_ones):
                return True
    return False
