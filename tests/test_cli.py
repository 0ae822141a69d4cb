"""The command line: what it says where, and with which exit status it ends."""

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

import gradcheck
from gradcheck import suites
from gradcheck.cli import main
from gradcheck.records import decode, encode
from gradcheck.reference.dense import Dense
from gradcheck.results import Report

ALL = ("run", "static", "--examples", "3")
QUICK = (*ALL, "--backend", "torch")  # one is enough to say what is said of a run

# Installed or not, a framework whose entry is None cannot be imported.
WITHOUT_FRAMEWORKS = """
import sys
sys.modules["torch"] = sys.modules["jax"] = None
from gradcheck.cli import main
main()
"""


def gradcheck_command(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


@pytest.fixture
def broken_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plant a sign error into the bias of the reference."""
    right = Dense.backward

    def wrong(self: Dense, params: Any, cache: Any, u: Any) -> Any:
        grads, inputs = right(self, params, cache, u)
        return {name: -g if name == "bias" else g for name, g in grads.items()}, inputs

    monkeypatch.setattr(Dense, "backward", wrong)


@pytest.fixture
def campaign(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Report], Report]], None]:
    """Return a function that alters the report of the campaign before the command line sees it."""
    real = suites.run

    def alter(change: Callable[[Report], Report]) -> None:
        monkeypatch.setattr(suites, "run", lambda *a, **k: change(real(*a, **k)))

    return alter


def test_version_is_that_of_the_package() -> None:
    assert gradcheck_command("--version").output == f"gradcheck {gradcheck.__version__}\n"


def test_module_runs_like_the_command() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "gradcheck", "--version"], capture_output=True, text=True, check=True
    )

    assert run.stdout == f"gradcheck {gradcheck.__version__}\n"


def test_help_describes_every_suite() -> None:
    described = {
        line.split()[0]
        for line in gradcheck_command("run", "--help").output.splitlines()
        if line.split()
    }

    assert set(suites.NAMES) <= described


def test_agreement_is_status_0() -> None:
    result = gradcheck_command(*QUICK)

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("PASS")


def test_seed_is_said() -> None:
    assert "seed 0" in gradcheck_command(*QUICK).stdout


def test_summary_goes_to_stdout_and_progress_to_stderr() -> None:
    result = gradcheck_command(*QUICK)

    assert result.stdout.startswith("PASS")
    assert "\nstatic: " in result.stderr
    assert "static: " not in result.stdout


def test_quiet_run_that_passes_says_nothing() -> None:
    assert gradcheck_command(*QUICK, "--quiet").output == ""


@pytest.mark.usefixtures("broken_dense")
def test_divergence_is_status_1() -> None:
    assert gradcheck_command(*QUICK, "--examples", "30").exit_code == 1


@pytest.mark.usefixtures("broken_dense")
def test_quiet_run_that_fails_says_what() -> None:
    result = gradcheck_command(*QUICK, "--examples", "30", "--quiet")

    assert result.stdout.startswith("FAIL")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "statc"), "there is no suite 'statc'. Did you mean 'static'?"),
        (("run", "quantum"), "There are: static, recurrent, fixed_point, training."),
        (("run", "--backend", "tensorflow"), "'tensorflow' is not one of 'torch', 'jax'"),
        (("run", "--examples", "0"), "0 is not in the range x>=1"),
        (("run", "--seed", "-1"), "-1 is not in the range x>=0"),
        (("run", "--report", "report.txt"), "expected a path ending in .html or .json"),
        (("run", "--report", "absent/report.html"), "does not exist. Create it first."),
        (("rum",), "No such command 'rum'"),
    ],
)
def test_misuse_is_status_2(arguments: tuple[str, ...], message: str) -> None:
    result = gradcheck_command(*arguments)

    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())


def test_folder_is_no_report(tmp_path: Path) -> None:
    folder = tmp_path / "report.html"
    folder.mkdir()

    result = gradcheck_command("run", "--report", str(folder))

    assert result.exit_code == 2
    assert "is a folder" in result.stderr


class TestBroken:
    """Status 3: not the gradients are at fault, and nobody is accused."""

    @pytest.fixture(autouse=True)
    def breakage(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def run(*names: Any, **options: Any) -> Report:
            raise RuntimeError("the disk\nis full")

        monkeypatch.setattr(suites, "run", run)

    def test_status_is_3(self) -> None:
        assert gradcheck_command(*QUICK).exit_code == 3

    def test_one_line_says_what_and_one_how_to_see_more(self) -> None:
        assert gradcheck_command(*QUICK, "--quiet").stderr.splitlines() == [
            "gradcheck broke: RuntimeError: the disk is full",
            "run it again with --debug for the traceback",
        ]

    def test_debug_shows_the_traceback(self) -> None:
        result = gradcheck_command(*QUICK, "--debug")

        assert "Traceback (most recent call last)" in result.stderr
        assert result.exit_code == 3


def test_interruption_is_neither_a_divergence_nor_a_breakage(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def run(*names: Any, **options: Any) -> Report:
        raise KeyboardInterrupt

    monkeypatch.setattr(suites, "run", run)

    assert gradcheck_command(*QUICK).exit_code == 130


def test_nothing_compared_is_status_3(campaign: Any) -> None:
    def idle(report: Report) -> Report:
        return replace(report, suites=tuple(replace(s, agreements=()) for s in report.suites))

    campaign(idle)

    result = gradcheck_command(*QUICK)

    assert result.exit_code == 3
    assert "nothing was checked" in result.stderr


def result_of(*verdicts: gradcheck.Verdict) -> gradcheck.CheckResult:
    """Return a result with one finding of each of `verdicts`."""
    findings = (
        gradcheck.Finding(
            check="vjp",
            leaf="input[0]",
            verdict=verdict,
            mismatch=0.01,
            resolution=0.04,
            tolerance=0.001,
            oracle="finite differences",
            message="made up",
        )
        for verdict in verdicts
    )
    plain = gradcheck.check(Dense(inputs=1, outputs=1), np.ones((1, 1)))
    return replace(plain, findings=tuple(findings))


def test_inconclusive_is_status_0_and_said(campaign: Any) -> None:
    unresolved = result_of(gradcheck.Verdict.INCONCLUSIVE)
    campaign(lambda report: replace(report, results=(unresolved,)))

    result = gradcheck_command(*QUICK)

    assert result.exit_code == 0
    assert result.stdout.startswith("INCONCLUSIVE")
    assert "inconclusive is no divergence" in result.stderr


def test_what_raised_is_status_3_and_said(campaign: Any) -> None:
    raised = result_of(gradcheck.Verdict.ERROR)
    campaign(lambda report: replace(report, results=(raised,)))

    result = gradcheck_command(*QUICK)

    assert result.exit_code == 3
    assert "an error is no divergence" in result.stderr


def test_divergence_is_status_1_whatever_raised_besides(campaign: Any) -> None:
    both = result_of(gradcheck.Verdict.ERROR, gradcheck.Verdict.FAIL)
    campaign(lambda report: replace(report, results=(both,)))

    assert gradcheck_command(*QUICK).exit_code == 1


def test_input_that_cannot_be_used_is_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*names: Any, **options: Any) -> Report:
        raise gradcheck.InputError("expected a seed that fits into 32 bits; got 2**40")

    monkeypatch.setattr(suites, "run", run)

    result = gradcheck_command(*QUICK, "--quiet")

    assert result.exit_code == 2
    assert result.stderr == "Error: expected a seed that fits into 32 bits; got 2**40\n"


def test_json_report_holds_the_run(tmp_path: Path) -> None:
    path = tmp_path / "report.json"

    gradcheck_command(*QUICK, "--seed", "5", "--report", str(path))

    report = decode(path.read_text(), Report)
    assert report.seed == 5
    assert [suite.name for suite in report.suites] == ["static"]


def test_both_reports_are_written_and_named(tmp_path: Path) -> None:
    html, json = tmp_path / "report.html", tmp_path / "report.json"

    result = gradcheck_command(*QUICK, "--report", str(html), "--report", str(json))

    assert html.read_text().lower().startswith("<!doctype html>")
    assert json.exists()
    assert result.stdout.splitlines()[-2:] == [f"report: {html}", f"report: {json}"]


def test_missing_framework_is_said_and_skipped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "jax", None)
    path = tmp_path / "report.json"

    result = gradcheck_command(*ALL, "--report", str(path))

    said = "jax is not installed, nothing is compared with it: pip install 'gradcheck[jax]'"
    assert result.exit_code == 0, result.output
    assert said in result.stderr
    assert said in decode(path.read_text(), Report).not_checked


def test_without_any_framework_the_reference_is_checked_by_differences(tmp_path: Path) -> None:
    path = tmp_path / "report.json"

    run = subprocess.run(
        [sys.executable, "-c", WITHOUT_FRAMEWORKS, *ALL, "--report", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 0, run.stderr
    (suite,) = decode(path.read_text(), Report).suites
    pairs = {agreement.pair for agreement in suite.agreements}
    assert ("reference", "finite differences") in pairs
    assert not {source for pair in pairs for source in pair} & {"torch", "jax"}


LAYERS = """
import numpy as np
import torch
import gradcheck

class Scale(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, w, wrong):
        ctx.save_for_backward(x, w)
        ctx.wrong = wrong
        return x * w

    @staticmethod
    def backward(ctx, u):
        x, w = ctx.saved_tensors
        return u * w, (u * x).mean(0) if ctx.wrong else (u * x).sum(0), None

class Net(torch.nn.Module):
    def __init__(self, size, wrong=False):
        super().__init__()
        if size < 0:
            raise ValueError("a size below nothing")
        self.weight = torch.nn.Parameter(torch.randn(size))
        self.wrong = wrong

    def forward(self, x):
        return Scale.apply(x, self.weight, self.wrong)

class Cell(torch.nn.RNNCell):
    def __init__(self, size):
        super().__init__(size, size)

    def forward(self, x):
        return super().forward(x, torch.zeros(x.shape))  # in the default dtype

net = Net(3)
right = gradcheck.Rule(np.sin, lambda inputs, u: u * np.cos(inputs[0]))
wrong = gradcheck.Rule(np.sin, lambda inputs, u: -u * np.cos(inputs[0]))

def scaled(x, *, factor=1.0):
    return x.sin() * factor

def raises(x):
    raise RuntimeError("the target is broken")

def made():
    return Net(3)


def example(size, wrong=False):
    return Net(size, wrong), (torch.randn(2, size),)
"""

AMBIGUOUS = """
import jax
import torch

def squared(x):
    return x * x
"""


@pytest.fixture
def layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Make a folder with modules the current one, and forget the modules in the end."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_layers.py").write_text(LAYERS)
    (tmp_path / "my_ambiguous.py").write_text(AMBIGUOUS)
    (tmp_path / "my_broken.py").write_text("import module_that_is_not_there")
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    for name in [name for name in sys.modules if name.startswith("my_")]:
        del sys.modules[name]


WRONG_SCALE = (
    "check",
    "my_layers:Scale",
    *("--input", "float64[2,3]", "--input", "float64[3]", "--input", "True"),
)


@pytest.mark.usefixtures("layers")
@pytest.mark.parametrize(
    "arguments",
    [
        "my_layers:Net --arg 3 --input float64[2,3]",
        "my_layers:Net --kwarg size=3 --input float32[2,3]",
        "my_layers:net --input float32[2,3]",
        "my_layers:Scale --input float64[2,3] --input float64[3] --input False",
        "my_layers:scaled --input complex128[2] --kwarg factor=0.5",
        "my_layers:right --input float64[5]:-1..1",
        "my_layers:example --build --arg 4",
        "torch.nn:Embedding --arg 5 --arg 2 --input int64[3]<5",
        "my_layers:Cell --arg 3 --input float64[2,3]",
        "jax.nn:softplus --input float64[2,3]",
        "my_ambiguous:squared --framework jax --input float64[2]:positive",
        "my_ambiguous:squared --framework torch --input float64[2]:positive",
        "my_layers:Scale --input float64[2,3] --input float64[3] --input True --wrt input[0]",
    ],
)
def test_check_of_a_right_gradient_is_status_0(arguments: str) -> None:
    result = gradcheck_command("check", *arguments.split())

    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("PASS")


@pytest.mark.usefixtures("layers")
@pytest.mark.parametrize(
    ("arguments", "leaf"),
    [
        ("my_layers:Net --arg 3 --kwarg wrong=True --input float64[2,3]", "params.weight"),
        ("my_layers:Scale --input float64[2,3] --input float64[3] --input True", "input[1]"),
        ("my_layers:wrong --input float64[5]", "input[0]"),
        ("my_layers:wrong --input float64[5] --checks adjoint,vjp", "input[0]"),
        ("my_layers:example --build --arg 4 --kwarg wrong=True", "params.weight"),
    ],
)
def test_check_of_a_wrong_gradient_is_status_1(arguments: str, leaf: str) -> None:
    result = gradcheck_command("check", *arguments.split())

    assert result.exit_code == 1, result.output
    assert result.stdout.startswith("FAIL")
    assert f" at {leaf} " in result.stdout
    assert f"again: gradcheck check {arguments.split()[0]} " in result.stdout


@pytest.mark.usefixtures("layers")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("my_layers", "expected module:object"),
        ("my_layers:Nett", "Did you mean 'Net'?"),
        ("my_layers:torhc", "There are: "),  # no module that it imports
        ("my_layers:made --input float64[2]", "if it makes the layer, say --build"),
        ("my_layerz:Net", "there is no module 'my_layerz'"),
        ("my_layers:Net --arg 3 --input float63[2]", "Did you mean 'float64'?"),
        ("my_layers:Net --input float64[2]", "missing a required argument: 'size'"),
        ("my_layers:Net --arg three --input float64[2]", "expected a Python literal"),
        ("my_layers:Net --kwarg size --input float64[2]", "expected name=literal"),
        ("my_layers:right --input float64[2] --checks vpj", "expected checks to be"),
        ("my_layers:right --input float64[2] --wrt input[1]", "matches no leaf"),
        ("my_layers:right --input float64[2] --rtol 2", "expected rtol"),
        ("my_layers:right --input float64[2] --report no/r.json", "does not exist"),
        ("my_ambiguous:squared --input float64[2]", "say --framework"),
        ("my_layers:right", "expected at least one floating or complex array"),
        ("numpy:sin --framework numpy --input float64[2]", "gradcheck.Rule(forward, vjp)"),
    ],
)
def test_check_says_what_is_wrong_with_its_usage(arguments: str, words: str) -> None:
    result = gradcheck_command("check", *arguments.split())

    assert result.exit_code == 2, result.output
    assert words in " ".join(result.stderr.split())
    assert not result.stdout


@pytest.mark.usefixtures("layers")
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("my_layers:raises --input float64[2]", "RuntimeError: the target is broken"),
        ("my_layers:Net --arg=-1 --input float64[2]", "ValueError: a size below nothing"),
        ("my_broken:x", "No module named 'module_that_is_not_there'"),
        ("my_layers:Net --arg 3 --input float64[2,4]", "must match"),
    ],
)
def test_check_of_a_target_that_raises_is_status_3(arguments: str, words: str) -> None:
    result = gradcheck_command("check", *arguments.split())

    assert result.exit_code == 3, result.output
    assert words in " ".join(result.output.split())
    assert "gradcheck broke" not in result.output


def test_check_writes_a_report_with_the_command_that_repeats_it(layers: Path) -> None:
    result = gradcheck_command(*WRONG_SCALE, "--seed", "5", "--report", "r.json")
    report = decode((layers / "r.json").read_text(), Report)
    (found,) = report.results
    again = gradcheck_command(*shlex.split(found.replay)[1:])

    assert result.exit_code == again.exit_code == 1
    assert report.command == found.replay
    assert again.stdout == result.stdout.replace("report: r.json\n", "")


def test_replay_runs_what_failed_again(layers: Path) -> None:
    first = gradcheck_command(*WRONG_SCALE, "--report", "r.json")
    assert gradcheck_command("replay", "r.json").exit_code == 1

    text = (layers / "my_layers.py").read_text()
    (layers / "my_layers.py").write_text(text.replace("(u * x).mean(0)", "(u * x).sum(0)"))
    mended = gradcheck_command("replay", "r.json")

    assert first.exit_code == 1
    assert mended.exit_code == 0
    assert mended.stdout.startswith("$ gradcheck check my_layers:Scale ")
    assert "\nPASS  Scale" in mended.stdout


def altered(path: Path, **changes: Any) -> None:
    report = decode(path.read_text(), Report)
    changed = replace(report, results=tuple(replace(r, **changes) for r in report.results))
    path.write_text(encode(changed))


@pytest.mark.parametrize(
    ("command", "status", "words"),
    [
        ("", 3, "no command that runs it again"),
        ("rm -r /nowhere", 2, "refused"),
        ("gradcheck 'unfinished", 2, "refused"),
        ("gradcheck check nowhere_at_all:x", 2, "$ gradcheck check"),
        ("pytest -p no:cacheprovider no_such_test.py", 2, "$ pytest"),
        ("python -c 'print(\"FAIL  x\")'", 1, "FAIL  x"),
        ("python -c 'print(\"PASS  x\")'", 0, "PASS  x"),
        ("python -c 'raise ValueError'", 3, "$ python"),
    ],
)
def test_replay_ends_as_what_it_runs(layers: Path, command: str, status: int, words: str) -> None:
    gradcheck_command(*WRONG_SCALE, "--report", "r.json")
    altered(layers / "r.json", replay=command)

    result = gradcheck_command("replay", "r.json")

    assert result.exit_code == status
    assert words in result.output


@pytest.mark.usefixtures("layers")
def test_replay_of_what_passed_runs_nothing() -> None:
    gradcheck_command("check", "my_layers:right", "--input", "float64[2]", "--report", "r.json")

    result = gradcheck_command("replay", "r.json")

    assert result.exit_code == 0
    assert result.output == "nothing failed in this report\n"


def test_replay_of_what_is_no_report_is_misuse(layers: Path) -> None:
    (layers / "r.json").write_text("{}")

    assert gradcheck_command("replay", "r.json").exit_code == 2
    assert gradcheck_command("replay", "nowhere.json").exit_code == 2


class TestReport:
    """`gradcheck report`: two reports that `gradcheck check` wrote."""

    @pytest.fixture(autouse=True)
    def written(self, layers: Path) -> None:
        gradcheck_command("check", "my_layers:right", "--input", "float64[2]", "--report", "a.json")
        gradcheck_command(*WRONG_SCALE, "--report", "b.json")

    def renamed(self, name: str) -> None:
        """Let both reports be about a target of that name."""
        for path in (Path("a.json"), Path("b.json")):
            altered(path, name=name)

    def test_merged_reports_hold_all_results(self) -> None:
        result = gradcheck_command("report", "merge", "a.json", "b.json", "--report", "both.json")

        both = decode(Path("both.json").read_text(), Report)
        assert [found.name for found in both.results] == ["right", "Scale"]
        assert result.exit_code == 1
        assert "2 checks, 1 failed" in result.stdout
        assert result.stdout.endswith("report: both.json\n")

    def test_merged_reports_that_passed_are_status_0(self) -> None:
        assert gradcheck_command("report", "merge", "a.json", "a.json").exit_code == 0

    def test_one_name_in_two_reports_is_kept_apart(self) -> None:
        self.renamed("layer")

        gradcheck_command("report", "merge", "a.json", "b.json", "--report", "both.json")

        both = decode(Path("both.json").read_text(), Report)
        assert [found.name for found in both.results] == ["layer (a.json)", "layer (b.json)"]

    def test_difference_to_a_failure_is_status_1(self) -> None:
        gradcheck_command(*WRONG_SCALE[:-1], "False", "--report", "before.json")

        result = gradcheck_command("report", "diff", "before.json", "b.json")

        assert result.exit_code == 1
        assert result.stdout.splitlines() == [
            "worse   pass -> FAIL   gradient of Scale at input[1]   off by 5.0e-01",
            "1 change, 1 regression",
        ]

    def test_difference_to_a_pass_is_status_0(self) -> None:
        gradcheck_command(*WRONG_SCALE[:-1], "False", "--report", "after.json")

        result = gradcheck_command("report", "diff", "b.json", "after.json")

        assert result.exit_code == 0
        assert result.stdout.startswith("better   FAIL -> pass   gradient of Scale at input[1]\n")

    def test_no_difference_is_said(self) -> None:
        result = gradcheck_command("report", "diff", "a.json", "a.json")

        assert result.exit_code == 0
        assert result.stdout == "0 changes, 0 regressions\n"

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            ("merge", "Missing argument 'FILE...'"),
            ("merge a.json nowhere.json", "'nowhere.json' is not a file"),
            ("merge a.json --report both.txt", "expected a path ending in .html or .json"),
            ("diff a.json", "Missing argument 'NEW'"),
            ("diff a.json my_layers.py", "got no JSON"),
        ],
    )
    def test_misuse_is_status_2(self, arguments: str, words: str) -> None:
        result = gradcheck_command("report", *arguments.split())

        assert result.exit_code == 2
        assert words in " ".join(result.stderr.split())
