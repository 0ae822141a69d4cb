"""The checkout and the package agree: rooms, links, packages, public names."""

import ast
import os
import sys
import tomllib
from pathlib import Path

import pytest

import gradcheck

ROOT = Path(__file__).parents[1]
ROOMS = ("reference", "reports", "suites")

pytestmark = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").exists(), reason="the checkout is not here, only its tests"
)


def setuptools_table() -> dict[str, object]:
    table: dict[str, object] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    settings = table["setuptools"]
    assert isinstance(settings, dict)
    return settings


def packages_in(folder: Path, name: str) -> set[str]:
    """Return the dotted name of each package under `folder`; links are not followed."""
    folders = (Path(path) for path, _, _ in os.walk(folder))
    return {
        ".".join((name, *inner.relative_to(folder).parts))
        for inner in folders
        if (inner / "__init__.py").exists()
    }


def test_every_folder_of_code_is_a_listed_package() -> None:
    found = packages_in(ROOT / "gradcheck", "gradcheck")
    for room in ROOMS:
        found |= packages_in(ROOT / room, f"gradcheck.{room}")

    assert sorted(found) == setuptools_table()["packages"]


def test_each_room_is_built_from_its_folder() -> None:
    assert setuptools_table()["package-dir"] == {
        "gradcheck": "gradcheck",
        **{f"gradcheck.{room}": room for room in ROOMS},
    }


@pytest.mark.parametrize("room", ROOMS)
def test_link_leads_to_its_room(room: str) -> None:
    link = ROOT / "gradcheck" / room
    if not link.is_symlink():
        pytest.skip("this checkout was made without symbolic links")

    assert link.readlink() == Path("..") / room
    assert link.resolve() == ROOT / room


def test_every_module_lists_what_is_public() -> None:
    modules = [path for room in ("gradcheck", *ROOMS) for path in (ROOT / room).rglob("*.py")]
    silent = [
        str(path.relative_to(ROOT))
        for path in modules
        if path.name not in ("__init__.py", "__main__.py") and "__all__" not in path.read_text()
    ]

    assert silent == []


def imported(module: Path) -> set[str]:
    """Return what `module` imports, anywhere in it, as dotted names."""
    nodes = list(ast.walk(ast.parse(module.read_text())))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    return plain | {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}


def test_reference_imports_numpy_and_nothing_else() -> None:
    names = {name for module in (ROOT / "reference").rglob("*.py") for name in imported(module)}
    foreign = {
        name
        for name in names
        if not name.startswith(("numpy", "gradcheck.reference."))
        and name.partition(".")[0] not in sys.stdlib_module_names
    }

    assert "numpy" in names
    assert foreign == set()


def test_public_names_are_the_contract() -> None:
    assert gradcheck.__all__ == [
        "CheckResult",
        "Finding",
        "GradientMismatch",
        "InputError",
        "LayerSuite",
        "Rule",
        "Verdict",
        "__version__",
        "against_reference",
        "assert_gradients",
        "check",
        "check_fixed_point",
        "check_sequence",
        "compare",
        "find_culprit",
        "layer_suite",
    ]


@pytest.mark.parametrize("name", gradcheck.__all__)
def test_public_name_is_there(name: str) -> None:
    assert getattr(gradcheck, name) is not None


def test_public_names_are_listed_before_they_are_used() -> None:
    assert set(gradcheck.__all__) <= set(dir(gradcheck))


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'gradcheck' has no attribute 'chekc'"):
        gradcheck.chekc  # type: ignore[attr-defined]  # noqa: B018


def test_version_is_that_of_the_distribution() -> None:
    table = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert gradcheck.__version__ == table["project"]["version"]
