"""What is shipped: one import name, with its templates and its type marker, and tests in the sdist.

Built once for the module (a few seconds), from a copy, without network.
"""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHIPPED = ("gradcheck", "reference", "reports", "suites", "tests")
FILES = ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")
BUILD = "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists(), reason="the checkout is not here, only its tests"
)


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the built wheel and sdist."""
    copy = tmp_path_factory.mktemp("checkout")
    for folder in SHIPPED:
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / folder, copy / folder, symlinks=True, ignore=ignored)
    for file in FILES:
        shutil.copy(ROOT / file, copy)
    build = subprocess.run(
        [sys.executable, "-c", BUILD], cwd=copy, capture_output=True, text=True, check=False
    )
    assert build.returncode == 0, build.stderr
    return copy / "dist"


@pytest.fixture(scope="module")
def wheel(dist: Path) -> list[str]:
    (path,) = dist.glob("*.whl")
    return zipfile.ZipFile(path).namelist()


@pytest.fixture(scope="module")
def sdist(dist: Path) -> list[str]:
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        return [name.partition("/")[2] for name in archive.getnames()]


def test_wheel_brings_one_import_name(wheel: list[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel}

    assert {top for top in tops if not top.endswith(".dist-info")} == {"gradcheck"}
    assert len(tops) == 2


def test_wheel_holds_every_module_of_the_checkout(wheel: list[str]) -> None:
    own = {str(path.relative_to(ROOT)) for path in (ROOT / "gradcheck").rglob("*.py")}
    rooms = {
        f"gradcheck/{path.relative_to(ROOT)}"
        for room in ("reference", "reports", "suites")
        for path in (ROOT / room).rglob("*.py")
    }

    assert {name for name in wheel if name.endswith(".py")} == own | rooms


def test_wheel_holds_the_type_marker(wheel: list[str]) -> None:
    assert "gradcheck/py.typed" in wheel


def test_wheel_holds_the_templates(wheel: list[str]) -> None:
    templates = [path.name for path in (ROOT / "reports" / "templates").iterdir()]

    assert templates
    assert {f"gradcheck/reports/templates/{name}" for name in templates} <= set(wheel)


def test_sdist_holds_the_tests(sdist: list[str]) -> None:
    assert "tests/test_wheel.py" in sdist


def test_sdist_holds_the_rooms_as_folders(sdist: list[str]) -> None:
    assert "reference/dense.py" in sdist
    assert "gradcheck/reference/dense.py" not in sdist
