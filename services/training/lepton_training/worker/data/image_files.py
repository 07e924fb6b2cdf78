"""Images of PNG and JPEG files: in a folder a class, in archives, or named by a table."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from lepton_mesh.texts import counted
from lepton_training.recipes.data import ImageFileSettings
from lepton_training.worker.data.archives import ARCHIVES, unpacked
from lepton_training.worker.data.cleaning import BLANK, UNKNOWN, LeftOut
from lepton_training.worker.data.files import divide, read_tables, split_of
from lepton_training.worker.data.idx import DatasetInvalid, ImageData, LabelledImages
from lepton_training.worker.data.image_resizing import Resizer
from lepton_training.worker.data.image_sources import Reading

Bytes = npt.NDArray[np.uint8]

_SUFFIXES = (".png", ".jpg", ".jpeg")
_TABLES = (".csv", ".tsv", ".parquet")
_LARGEST = 64 << 20
"""Bytes of one file in an archive."""

_PIXELS_MAX = 50_000_000
_GREY_MODES = ("1", "L", "LA", "La")
_RAW_BYTES = 32 << 20
"""Of test images that are kept as they were, for the comparison of the exported model."""
_RAW_ROWS = 256


class _Unusable(Exception):
    """Why an image cannot be used."""


class _Named(NamedTuple):
    """An image that is not decoded yet."""

    label: str
    place: str
    """For people who look for it: its path, or the line of the table."""
    content: Path | bytes | None
    """None where the table names a file that is not there."""


@dataclass
class _Decoded:
    """Images of one split, of one size where the spec gives one."""

    images: list[Bytes] = field(default_factory=list)
    """Each ``[H, W]``, or ``[H, W, 3]`` of colors."""
    labels: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    raw: list[Bytes] = field(default_factory=list)
    """The first ones, as they were before they were brought to one size."""


@dataclass(frozen=True, slots=True)
class FoundImages:
    """What was read of the files."""

    data: ImageData
    raw: Sequence[Bytes]
    """Some test images of the sizes of their files."""
    rgb: bool
    left_out: Mapping[str, LeftOut]


def load(
    directory: Path, settings: ImageFileSettings, resizers: Resizers, seed: int, reading: Reading
) -> FoundImages:
    """The images below ``directory``.

    Raises:
        DatasetInvalid: There are none of two classes (of one, with ``reading.open_classes``), or
            of several sizes where none is wanted, or an archive or table is damaged.
    """
    left_out = {"train": LeftOut(), "test": LeftOut()}
    named = _named(directory, settings, left_out)
    divided = divide(named, settings, seed=seed, noun="image")
    decoded = {
        name: _decoded(
            side,
            resizers,
            left_out[name],
            color=reading.color,
            keep_blank=name in reading.keep_blank,
        )
        for name, side in zip(("train", "test"), divided, strict=True)
    }
    trained = set(decoded["train"].labels)
    if reading.open_classes:
        names = tuple(sorted(trained | set(decoded["test"].labels)))
    else:
        names = tuple(sorted(trained))
        _drop_unknown(decoded["test"], names, left_out["test"])
    if len(trained) < (1 if reading.open_classes else 2) or not decoded["test"].images:
        told = ", ".join(f"{name}: {lost.told() or 'none'}" for name, lost in left_out.items())
        needed = "an image" if reading.open_classes else "two classes"
        raise DatasetInvalid(
            f"it has {counted(len(decoded['train'].images), 'training image')} of "
            f"{counted(len(trained), 'class', 'classes')} and "
            f"{counted(len(decoded['test'].images), 'test image')}; training needs {needed}, and "
            "one to test with. Images lie in a folder for each class, or in a table named in "
            f"data.path and data.target. Left out: {told}"
        )
    rgb = any(image.ndim == 3 for image in decoded["train"].images)
    splits = {name: _stacked(split, names, rgb) for name, split in decoded.items()}
    sizes = {split.images.shape[1:3] for split in splits.values()}
    if len(sizes) > 1:
        raise _several_sizes(sizes)
    data = ImageData(splits["train"], splits["test"], len(names), names)
    raw = [_colored(image, rgb) for image in decoded["test"].raw]
    return FoundImages(data, raw, rgb, left_out)


class Resizers:
    """Brings single images to the size of the spec; one graph for grey ones, one for colors."""

    def __init__(self, name: str, settings: ImageFileSettings) -> None:
        """``name`` is the input of the graphs."""
        self._name, self._settings = name, settings
        self._made: dict[bool, Resizer] = {}

    def of(self, rgb: bool) -> Resizer | None:
        """None where images are left as they are."""
        size = self._settings
        if not size.height:
            return None
        if rgb not in self._made:
            self._made[rgb] = Resizer(self._name, size.height, size.width, how=size.resize, rgb=rgb)
        return self._made[rgb]


def decode(content: bytes, color: str) -> Bytes:
    """The pixels, upright, ``[H, W]`` where they are grey and ``[H, W, 3]`` where not.

    Raises:
        _Unusable: With the reason.
    """
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as image:
            _check_size(image)
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits of grey
                high = np.asarray(upright).astype(np.int64).clip(0, 65_535) >> 8
                upright = Image.fromarray(high.astype(np.uint8))
            grey = color == "grey" or (color == "auto" and upright.mode in _GREY_MODES)
            return np.asarray(upright.convert("L" if grey else "RGB"))
    except _Unusable:
        raise
    except UnidentifiedImageError:
        raise _Unusable("not a PNG or JPEG image") from None
    except Image.DecompressionBombError:
        raise _Unusable(f"more than {_PIXELS_MAX:,} pixels") from None
    except Exception:  # whatever a damaged file makes a decoder say
        raise _Unusable("damaged image") from None


def _check_size(image: Image.Image) -> None:
    """Before any pixel is decoded: a small file may have very many."""
    if image.width * image.height > _PIXELS_MAX:
        raise _Unusable(f"more than {_PIXELS_MAX:,} pixels")


def _named(
    directory: Path, settings: ImageFileSettings, left_out: dict[str, LeftOut]
) -> Iterator[tuple[str, _Named]]:
    """All images, in order; each with the path by which its split is chosen."""
    files = {
        path.relative_to(directory).as_posix(): path
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    found: list[tuple[str, str, Path | bytes]] = []  # each also with its path in its archive
    for name, path in files.items():
        if name.endswith(ARCHIVES):
            inside = unpacked(path, name, _SUFFIXES, largest=_LARGEST)
            found += [(f"{name}/{inner}", inner, content) for inner, content in inside]
        elif name.lower().endswith(_SUFFIXES):
            found.append((name, name, path))
    tables = [name for name in files if name.endswith(_TABLES)]
    if not tables:
        # In order of path: an archive has its own, and the seed is to hold out the same images.
        for name, inner, content in sorted(found, key=lambda one: one[0]):
            if label := PurePosixPath(inner).parent.name:
                yield name, _Named(label, name, content)
    by_path = {inner: content for _, inner, content in found}
    by_path |= {name: content for name, _, content in found}
    counts = Counter(inner for _, inner in {(name, inner) for name, inner, _ in found})
    several = {inner for inner, count in counts.items() if count > 1 and inner not in files}
    for name in tables:
        yield from _of_table(name, files[name], by_path, settings, left_out, several=several)


def _of_table(
    name: str,
    path: Path,
    found: Mapping[str, Path | bytes],
    settings: ImageFileSettings,
    left_out: dict[str, LeftOut],
    *,
    several: Collection[str],
) -> Iterator[tuple[str, _Named]]:
    """Images that a table names, relative to itself or to the dataset's root.

    ``several``: paths that files in more than one archive have.
    """
    table = read_tables([path], settings)
    for column in (settings.path, settings.target):
        if column not in table.columns:
            raise DatasetInvalid(f"{name} has no column '{column}'; it has {table.told}", file=name)
    if split := split_of(name, settings):
        left_out[split].include(table.left_out)
    folder = PurePosixPath(name).parent
    columns = (table.columns[settings.path], table.columns[settings.target])
    for row, (image, label) in enumerate(zip(*columns, strict=True)):
        beside, whole = (folder / image.strip()).as_posix(), PurePosixPath(image.strip()).as_posix()
        chosen = beside if beside in found else whole
        if chosen in several:
            raise DatasetInvalid(
                f"{table.places.name(row)} names {chosen}, which is in several archives; write it "
                f"with the archive's name, such as archive.zip/{chosen}",
                file=name,
            )
        yield name, _Named(label.strip(), table.places.name(row), found.get(chosen))


def _decoded(
    named: Sequence[_Named],
    resizers: Resizers,
    left_out: LeftOut,
    *,
    color: str,
    keep_blank: bool,
) -> _Decoded:
    split = _Decoded()
    kept_bytes = 0
    for one in named:
        try:
            pixels = _pixels(one, color, keep_blank=keep_blank)
        except _Unusable as why:
            left_out.add(str(why), one.place)
            continue
        kept_bytes += pixels.nbytes
        if len(split.raw) < _RAW_ROWS and (not split.raw or kept_bytes <= _RAW_BYTES):
            split.raw.append(pixels)
        resizer = resizers.of(pixels.ndim == 3)
        split.images.append(pixels if resizer is None else resizer(pixels[None])[0])
        split.labels.append(one.label)
        split.places.append(one.place)
    return split


def _pixels(one: _Named, color: str, *, keep_blank: bool) -> Bytes:
    if not one.label:
        raise _Unusable("no label")
    if one.content is None:
        raise _Unusable("no such file")
    content = one.content if isinstance(one.content, bytes) else one.content.read_bytes()
    pixels = decode(content, color)
    if not keep_blank and pixels.min() == pixels.max():
        raise _Unusable(BLANK)
    return pixels


def _drop_unknown(split: _Decoded, names: Sequence[str], left_out: LeftOut) -> None:
    known = set(names)
    for label, place in zip(split.labels, split.places, strict=True):
        if label not in known:
            left_out.add(UNKNOWN, place)
    rows = [row for row, label in enumerate(split.labels) if label in known]
    split.images = [split.images[row] for row in rows]
    split.labels = [split.labels[row] for row in rows]


def _stacked(split: _Decoded, names: Sequence[str], rgb: bool) -> LabelledImages:
    images = [_colored(image, rgb) for image in split.images]
    sizes = {(image.shape[0], image.shape[1]) for image in images}
    if len(sizes) > 1:
        raise _several_sizes(sizes)
    codes = {name: code for code, name in enumerate(names)}
    return LabelledImages(
        np.stack(images), np.array([codes[label] for label in split.labels], np.int64)
    )


def _colored(image: Bytes, rgb: bool) -> Bytes:
    """With three channels where ``rgb``, and with none where not."""
    if rgb and image.ndim == 2:
        return np.repeat(image[:, :, None], 3, axis=2)
    if not rgb and image.ndim == 3:
        return np.asarray(Image.fromarray(image).convert("L"))
    return image


def _several_sizes(sizes: set[tuple[int, int]]) -> DatasetInvalid:
    told = ", ".join(f"{height}x{width}" for height, width in sorted(sizes)[:5])
    return DatasetInvalid(
        f"the images have several sizes ({told}); set data.height and data.width to what they are "
        "to be brought to"
    )
