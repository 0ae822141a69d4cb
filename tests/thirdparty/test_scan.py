"""`gradcheck scan` of a published package, with what a session of pytest has checked of it."""

import pytest
from click.testing import CliRunner

pytest_plugins = ["pytester"]

SESSION = """
import torch


def test_function(gradcheck):
    import entmax

    x = torch.randn(2, 5, dtype=torch.float64)
    gradcheck.assert_gradients(lambda x: entmax.entmax15(x, dim=-1), x)


def test_module(gradcheck):
    from entmax import Sparsemax

    x = torch.randn(2, 5, dtype=torch.float64)
    gradcheck.assert_gradients(Sparsemax(dim=-1), x)
"""


def states(output: str) -> dict[str, str]:
    """Return name -> kind and state, of the lines of `gradcheck scan`."""
    rows = (line.split() for line in output.splitlines() if "/entmax/" in line)
    return {name: " ".join([kind, *state]) for kind, name, _, *state in rows}


def test_scan_lists_the_functions_and_modules_and_tells_which_were_checked(
    pytester: pytest.Pytester,
) -> None:
    pytest.importorskip("entmax", reason="an optional package is not installed")
    from gradcheck.cli import main

    pytester.makepyfile(SESSION)
    session = pytester.runpytest_subprocess("--gradcheck-record=checked.txt")
    result = CliRunner().invoke(main, ["scan", "entmax", "--checked", "checked.txt"])

    session.assert_outcomes(passed=2)
    assert result.exit_code == 0, result.output
    found = states(result.stdout)
    assert found["entmax.activations.Entmax15Function"].startswith("autograd.Function within ")
    assert found["entmax.activations.Sparsemax"] == "nn.Module checked"
    assert (
        found["entmax.activations.SparsemaxFunction"]
        == "autograd.Function within entmax.activations.Sparsemax"
    )
    assert found["entmax.activations.Entmax15"] == "nn.Module NOT CHECKED"
    assert f"{len(found)} found, 3 of them checked" in result.stdout
