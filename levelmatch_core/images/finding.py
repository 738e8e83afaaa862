"""Which files come in, and what each is called: a name that is the same on every machine and unique in a run."""

import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from levelmatch_core.errors import NoInputError, UsageError
from levelmatch_core.files.regular import refuse_irregular
from levelmatch_core.images.associations import is_association, science_members

FITS = re.compile(r"\.(?:fits?|fts)(?:\.(?:gz|fz|bz2|z))?$", re.IGNORECASE)


@dataclass(frozen=True)
class _Found:
    path: Path
    folder: Path
    """The INPUT folder that it was found in, or the folder of a file that was named itself."""

    @property
    def relative(self) -> str:
        return self.path.relative_to(self.folder).as_posix()


def find_files(
    inputs: Iterable[str | Path],
    *,
    step_ext: str | None,
    recursive: bool,
    exclude: Iterable[str | Path] = (),
    missing: Collection[Path] = (),
) -> list[tuple[Path, str]]:
    """Return the files of all inputs, each with the name by which it is shown, sorted by that name.

    A name is the path relative to the INPUT folder; where two files share it, the folder's own name (and, if need be, a
    number) comes before it. A file that is reached in several ways is returned once.

    Parameters
    ----------
    inputs
        Files, which are taken whatever they are called, and folders, which are searched for `*.fits`, `*.fit` and
        `*.fts`, each also with `.gz`, `.fz`, `.bz2` or `.Z` after it (in any case; hidden files and folders are passed
        over). A `.json` file is an association: its
        science members are taken as files that were named themselves.
    step_ext
        Of folders take only `*_<step_ext>.fits` (and .fit, .fts, .gz, .fz, .bz2, .Z); None takes all.
    recursive
        Whether to search folders within folders. Links to folders are not followed.
    exclude
        Folders (the output) of which nothing is ever taken.
    missing
        Absolute paths of files that are known not to be there, which are returned with the others.

    Raises
    ------
    UsageError
        If another input does not exist, or one lies in an excluded folder, or is a faulty association.
    NoInputError
        If there is no file.
    """
    given = [Path(os.path.abspath(entry)) for entry in inputs]  # noqa: PTH100 - links keep the names that users gave
    excluded = [Path(folder).resolve() for folder in exclude]
    _check_inputs(given, excluded, missing)
    given = [Path(os.path.abspath(file)) for entry in given for file in _members(entry, missing)]  # noqa: PTH100 - as above
    _check_inputs(given, excluded, missing)
    found = _search(given, step_ext, recursive, excluded)
    if not found:
        wanted = f"*_{step_ext}.fits" if step_ext else "*.fits"
        places = ", ".join(map(str, given)) or "no input was given"
        within = "" if recursive else "; folders within are not searched"
        message = f"no {wanted} (or .fit, .fts; .gz, .fz, .bz2, .Z after it) found: {places}{within}{_others(given)}"
        raise NoInputError(message)
    return sorted(((file.path, name) for file, name in _named(found)), key=lambda entry: entry[1])


def _others(given: Sequence[Path]) -> str:
    """Say which files of the folders have names that are none of FITS, '' if there are none."""
    found = (path for entry in given if entry.is_dir() for path in entry.iterdir() if path.is_file())
    names = sorted(path.name for path in found if not FITS.search(path.name) and not path.name.startswith("."))
    if not names:
        return ""
    kind = "ASDF is not read, only FITS is" if names[0].lower().endswith(".asdf") else "rename them if they are FITS"
    return f"; {len(names)} other files are there, {names[0]} the first: {kind}"


def _members(entry: Path, missing: Collection[Path]) -> list[Path]:
    """Return the files of an association, or the entry itself."""
    return science_members(entry, missing) if is_association(entry) else [entry]


def _check_inputs(given: Sequence[Path], excluded: Sequence[Path], missing: Collection[Path]) -> None:
    for path in given:
        if path not in missing and not path.exists():
            message = f"input {path}: no such file or folder"
            raise UsageError(message)
        if path not in missing and not path.is_dir():
            refuse_irregular(path, UsageError, f"input {path}")
        if _within(path, excluded):
            message = f"input {path}: lies in the output folder, of which nothing is taken; give the original files"
            raise UsageError(message)


def _within(path: Path, folders: Sequence[Path]) -> bool:
    return any(path.resolve().is_relative_to(folder) for folder in folders)


def _search(given: Sequence[Path], step_ext: str | None, recursive: bool, excluded: Sequence[Path]) -> list[_Found]:
    """Return each file once, under the deepest folder by which it was reached."""
    ending = f"_{step_ext}" if step_ext else ""
    by_file: dict[Path, _Found] = {}
    folders: dict[Path, Path] = {}  # what each is where links are followed: once for all of its files
    for entry in sorted(set(given), key=lambda path: (-len(path.parts), str(path))):
        for path in _files_of(entry, ending, recursive):
            folder = path.parent
            if folder not in folders:
                folders[folder] = folder.resolve()
            if not any(folders[folder].is_relative_to(one) for one in excluded):
                # not resolve(), to which a link to itself is an error: it is left out by name when it is to be read
                file = Path(os.path.realpath(path)) if path.is_symlink() else folders[folder] / path.name
                by_file.setdefault(file, _Found(path, folder if path == entry else entry))
    return list(by_file.values())


def _files_of(entry: Path, ending: str, recursive: bool) -> Iterator[Path]:
    if not entry.is_dir():
        yield entry
        return
    for folder, folders, files in os.walk(entry):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        for name in sorted(files):
            match = FITS.search(name)
            if match and name[: match.start()].endswith(ending) and not name.startswith("."):
                path = Path(folder, name)
                if not path.is_dir():  # a pipe, or a link to nowhere, is left out by name when it is to be read
                    yield path


def _named(found: Sequence[_Found]) -> Iterator[tuple[_Found, str]]:
    """Yield each file with a name that no other has."""
    by_name: dict[str, list[_Found]] = defaultdict(list)
    for file in found:
        by_name[file.relative].append(file)
    taken = {name for name, files in by_name.items() if len(files) == 1}
    for name, files in sorted(by_name.items()):
        if len(files) == 1:
            yield files[0], name
            continue
        for file in sorted(files, key=lambda one: str(one.path)):
            prefix, number = file.folder.name or "root", 1
            shown = f"{prefix}/{name}"
            while shown in taken:
                number += 1
                shown = f"{prefix}-{number}/{name}"
            taken.add(shown)
            yield file, shown
