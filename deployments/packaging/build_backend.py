"""The build backend: setuptools, with a README for PyPI whose relative addresses are absolute."""

import re
import tomllib
from pathlib import Path

from setuptools import build_meta, setup
from setuptools.command.egg_info import manifest_maker


def readme() -> str:
    """Return README.md as it can be read without the files next to it."""
    source = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Source"]
    raw = source.replace("https://github.com/", "https://raw.githubusercontent.com/")
    text = Path("README.md").read_text(encoding="utf-8")
    text = re.sub(r"(!\[[^]]*\]\()(?!https?:)", rf"\1{raw}/main/", text)
    return re.sub(r"(?<!!)(\[[^]]*\]\()(?!https?:|#)", rf"\1{source}/blob/main/", text)


class _Backend(build_meta._BuildMetaBackend):  # noqa: SLF001 - setuptools has no other way without files in the root
    def run_setup(self, setup_script: str = "") -> None:  # noqa: ARG002 - there is none
        manifest_maker.template = "deployments/packaging/MANIFEST.in"
        setup(long_description=readme(), long_description_content_type="text/markdown")


_backend = _Backend()
build_wheel = _backend.build_wheel
build_sdist = _backend.build_sdist
build_editable = _backend.build_editable
prepare_metadata_for_build_wheel = _backend.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = _backend.prepare_metadata_for_build_editable
get_requires_for_build_wheel = _backend.get_requires_for_build_wheel
get_requires_for_build_sdist = _backend.get_requires_for_build_sdist
get_requires_for_build_editable = _backend.get_requires_for_build_editable
