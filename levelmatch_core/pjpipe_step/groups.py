"""Which files are meant: dithers as glob patterns, bare names, lists of files, and lists of lists."""

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from os.path import abspath
from pathlib import Path

from levelmatch_core.errors import UsageError
from levelmatch_core.images.instruments.jwst import parse_name

File = str | Path
Dither = File | Sequence[File]
"""The files of one tile, or a single one; a pattern stands for the files that it matches."""

_FITS = re.compile(r"\.(?:fits?|fts)(?:\.(?:gz|fz|bz2|z))?$", re.IGNORECASE)
_MAGIC = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Group:
    """The files of one tile."""

    tile: str
    files: tuple[Path, ...]
    """Absolute paths, in the order in which they were given."""


@dataclass(frozen=True)
class FileFinder:
    """Finds files by name or pattern: in the step's input folder, and where a path says."""

    in_dir: Path
    step_ext: str | None

    def tiles(self, dithers: File | Sequence[Dither], *, apart: bool = False) -> list[Group]:
        """Return the tiles that dithers mean.

        Each list, and each pattern, is a tile. A flat list of files is divided by the names of JWST's files; where they
        do not follow that convention, it is one tile, or as many as there are files if `apart`.

        Raises
        ------
        UsageError
            If a file does not exist, nothing matches a pattern, or a file is in two tiles.
        """
        entries = [dithers] if isinstance(dithers, str | Path) else list(dithers)
        found = [self.files(entry) for entry in entries]
        if all(isinstance(entry, str | Path) and self._is_file(entry) for entry in entries):
            found = _divided([files[0] for files in found], apart=apart)
        return _named(found)

    def members(self, groups: Sequence[Dither]) -> list[Group]:
        """Return each entry as a member of its own.

        Raises
        ------
        UsageError
            As :meth:`files`.
        """
        found = [self.files(entry) for entry in ([groups] if isinstance(groups, str | Path) else groups)]
        return [Group(_tile_name(files), tuple(files)) for files in found]

    def files(self, dither: Dither) -> list[Path]:
        """Return the files of one tile, each once.

        Raises
        ------
        UsageError
            If it is empty, a file does not exist, or nothing matches a pattern.
        """
        if not isinstance(dither, str | Path):
            entries = list(dither)
            if not all(isinstance(entry, str | Path) for entry in entries) or not entries:
                message = f"dither {dither!r}: expected a file, a pattern, or a list of these that is not empty"
                raise UsageError(message)
            return list(dict.fromkeys(path for entry in entries for path in self.files(entry)))
        if self._is_file(dither):
            return [self._path(dither)]
        return self._matching(str(dither))

    def _is_file(self, entry: File) -> bool:
        path = self._path(entry)
        return path.is_file() or (_FITS.search(str(entry)) is not None and not _MAGIC.search(str(entry)))

    def _path(self, entry: File) -> Path:
        """Return the path of a file: a bare name is that of a file of the input folder, if there is such a one.

        Raises
        ------
        UsageError
            If a file name leads to none.
        """
        given = Path(entry)
        places = [self.in_dir / given, given] if given.parent == Path() else [given, self.in_dir / given]
        found = next((place for place in places if place.is_file()), None)
        if found is not None:
            return Path(abspath(found))  # noqa: PTH100 - links keep the names that users gave
        if _FITS.search(given.name) and not _MAGIC.search(str(given)):
            message = f"file {entry}: neither there nor in {self.in_dir}{self._similar(given.name)}"
            raise UsageError(message)
        return given

    def _matching(self, pattern: str) -> list[Path]:
        """Return the FITS files that match a pattern, or of which it is the beginning; sorted.

        Raises
        ------
        UsageError
            If there are none.
        """
        folder, name = Path(pattern).parent, Path(pattern).name
        ending = f"*_{self.step_ext}.f*ts*" if self.step_ext else "*.f*ts*"
        names = [name] if _FITS.search(name) else [name + ending, name]
        folders = [self.in_dir / folder, folder] if folder == Path() else [folder, self.in_dir / folder]
        for place in folders:
            for one in (re.sub(r"\*+", "*", name) for name in names):
                found = [path for path in sorted(place.glob(one)) if path.is_file() and _FITS.search(path.name)]
                if found:
                    return [Path(abspath(path)) for path in found]  # noqa: PTH100 - as above
        message = f"dither {pattern!r}: no FITS file in {self.in_dir} matches{self._similar(name)}"
        raise UsageError(message)

    def _similar(self, name: str) -> str:
        there = sorted(path.name for path in self.in_dir.glob("*.f*ts*")) if self.in_dir.is_dir() else []
        near = difflib.get_close_matches(name, there, n=3) or there[:3]
        return f"; there are {', '.join(near)}" if near else "; there is no FITS file in it"


def stem(file: File) -> str:
    """Return the name of a file without folders and FITS's suffix."""
    return _FITS.sub("", Path(file).name)


def _divided(files: list[Path], *, apart: bool) -> list[list[Path]]:
    """Return the tiles of a flat list of files."""
    named = [parse_name(file.name) for file in files]
    tiles: dict[str, list[Path]] = {}
    for file, name in zip(files, named, strict=True):
        tiles.setdefault(name.tile if name else "", []).append(file)
    if "" not in tiles:
        return list(tiles.values())
    return [[file] for file in files] if apart else [files]


def _named(found: list[list[Path]]) -> list[Group]:
    """Return tiles with names of their own: those that a run gives them, if the files' names tell."""
    uses = Counter(file for files in found for file in files)
    twice = [file for file, count in uses.items() if count > 1]
    if twice:
        message = f"file {twice[0]}: in {uses[twice[0]]} dithers; each file belongs to one tile"
        raise UsageError(message)
    groups: list[Group] = []
    for files in found:
        name = _tile_name(files)
        number = sum(group.tile == name or group.tile.startswith(f"{name}~") for group in groups) + 1
        groups.append(Group(name if number == 1 else f"{name}~{number}", tuple(files)))
    return groups


def _tile_name(files: list[Path]) -> str:
    named = [name for name in (parse_name(file.name) for file in files) if name is not None]
    for names in ({name.tile for name in named}, {name.pointing for name in named}):
        if len(named) == len(files) and len(names) == 1:
            return names.pop()
    return stem(files[0])
