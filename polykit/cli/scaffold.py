"""Writes a new plugin package from the template beside this file."""

from __future__ import annotations

import importlib.util
import keyword
import os
import re
import shutil
import tempfile
from pathlib import Path
from string import Template

from polykit import __version__
from polykit.errors import PolykitError, UsageError

TEMPLATE = Path(__file__).parent / "template"


def write_package(name: str, parent: Path) -> Path:
    """Write the package `name` into a new folder of `parent`, whole or not at all; return it.

    Raises UsageError for what is no distribution name, is taken, or would overwrite something.
    """
    words = _words(name)
    target = parent / name
    if target.exists() or target.is_symlink():
        raise UsageError(f"{target} exists already; choose another name or another --in folder")
    try:
        partial = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=parent))
    except OSError as error:
        raise PolykitError(f"cannot write into {parent}: {error.strerror}") from error
    try:
        for source in sorted(TEMPLATE.rglob("*.tmpl")):
            inside = source.relative_to(TEMPLATE).as_posix().removesuffix(".tmpl")
            path = partial / inside.replace("src/package", f"src/{words['package']}")
            path.parent.mkdir(parents=True, exist_ok=True)
            text = Template(source.read_text(encoding="utf-8")).substitute(words)
            path.write_text(text, encoding="utf-8")
        partial.chmod(0o777 & ~_umask())  # mkdtemp makes folders that only their owner may enter
        partial.rename(target)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise PolykitError(f"cannot write {target}: {error.strerror}") from error
    return target


def _words(name: str) -> dict[str, str]:
    """Return what stands for each placeholder of the template."""
    if not re.fullmatch(r"[A-Za-z0-9]|[A-Za-z0-9][A-Za-z0-9._-]*[A-Za-z0-9]", name):
        raise UsageError(
            f"{name!r} is no distribution name; use letters, digits, '-', '_' and '.', "
            f"and begin and end with a letter or digit"
        )
    package = re.sub(r"[-_.]+", "_", name).lower()
    if not package.isidentifier() or keyword.iskeyword(package):
        raise UsageError(f"{name!r} would make the package {package!r}, which Python cannot import")
    if importlib.util.find_spec(package) is not None:
        raise UsageError(f"a module {package!r} is there already; choose another name")
    stem = package.removeprefix("polykit_").replace("_", "-")
    return {"name": name, "package": package, "stem": stem, "version": __version__}


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
