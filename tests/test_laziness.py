"""What is loaded, and when: everybody who has gradcheck installed pays for its plugin."""

import os
import subprocess
import sys
from pathlib import Path

FRAMEWORKS = {"jax", "numpy", "torch"}
HEAVY = FRAMEWORKS | {"click", "hypothesis", "jinja2", "matplotlib", "msgspec", "rich"}

# `-X importtime` would not do: it misses what comes in through `importlib.import_module`,
# which is how pytest loads plugins.
CONFESS = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr))"


def loaded(script: str, *, folder: Path, **environment: str) -> set[str]:
    """Return the modules that a fresh Python holds after `script`."""
    run = subprocess.run(
        [sys.executable, "-c", f"{CONFESS}; {script}"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return set(run.stderr.splitlines()[-1].split())


def session(*options: str, folder: Path, **environment: str) -> set[str]:
    """Return the modules that a session of pytest holds which does not use the plugin."""
    (folder / "test_plain.py").write_text("def test_plain(): pass\n")
    script = f"import pytest; sys.exit(pytest.main(['-p', 'no:cacheprovider', *{options}]))"
    return loaded(script, folder=folder, **environment)


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    modules = loaded("import gradcheck", folder=tmp_path)

    assert "gradcheck" in modules
    assert not modules & HEAVY


def test_the_records_load_nothing_heavy(tmp_path: Path) -> None:
    modules = loaded("from gradcheck import CheckResult, InputError", folder=tmp_path)

    assert "gradcheck.results" in modules
    assert not modules & HEAVY


def test_checking_a_numpy_rule_loads_no_other_framework(tmp_path: Path) -> None:
    rule = "gradcheck.Rule(np.sin, lambda inputs, u: u * np.cos(inputs[0]))"
    script = f"import numpy as np, gradcheck; gradcheck.check({rule}, np.ones(3))"
    modules = loaded(script, folder=tmp_path)

    assert "gradcheck.api" in modules
    assert not modules & (HEAVY - {"numpy", "msgspec"})


def test_a_session_that_does_not_use_the_plugin_loads_no_framework(tmp_path: Path) -> None:
    modules = session("--collect-only", folder=tmp_path)

    assert "gradcheck.plugin" in modules
    assert not modules & FRAMEWORKS


def test_the_plugin_needs_only_pytest_and_the_standard_library(tmp_path: Path) -> None:
    modules = session("-p", "gradcheck.plugin", folder=tmp_path, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")

    assert "gradcheck.plugin" in modules
    assert not modules & HEAVY


def test_help_of_the_command_line_loads_no_framework(tmp_path: Path) -> None:
    help_text = "from gradcheck.cli import main; main(['run', '--help'])"
    modules = loaded(help_text, folder=tmp_path)

    assert "gradcheck.cli" in modules
    assert not modules & (HEAVY - {"click"})
