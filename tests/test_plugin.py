"""The pytest plugin, run as a person runs it: made test files, real sessions."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

import gradcheck.adapters.jax_  # noqa: F401 - pytester forgets what it loads; this cannot load twice

pytest_plugins = ["pytester"]

RULES = """
import numpy as np

def right(gradcheck):
    return gradcheck.Rule(np.sin, lambda inputs, u: u * np.cos(inputs[0]))

def wrong(gradcheck):
    return gradcheck.Rule(np.sin, lambda inputs, u: -u * np.cos(inputs[0]))

POINT = np.linspace(-1.0, 1.0, 5)
"""
PASSING = """
def test_right(gradcheck):
    gradcheck.assert_gradients(right(gradcheck), POINT)
"""
FAILING = """
def test_wrong(gradcheck):
    gradcheck.assert_gradients(wrong(gradcheck), POINT)
"""
IGNORED = """
def test_ignored(gradcheck):
    gradcheck.check(wrong(gradcheck), POINT)
"""
SEVERAL = """
import pytest

@pytest.mark.parametrize("size", range(1, 9))
def test_sizes(gradcheck, size):
    gradcheck.assert_gradients(right(gradcheck), np.linspace(-1.0, 1.0, size))
"""
UNUSED = "def test_plain(): pass\n"


@pytest.fixture(autouse=True)
def quiet_neighbours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the plugins of others out of the made sessions."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("PYTEST_PLUGINS", "gradcheck.plugin")


def make(pytester: pytest.Pytester, *tests: str) -> None:
    pytester.makepyfile(test_made=RULES + "".join(tests))


def results(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["results"]
    return found


def headline(pytester: pytest.Pytester) -> str:
    """Return the verdict in the first lines of the page."""
    page = (pytester.path / "report.html").read_text()
    (found,) = re.findall('<header class="(.*)">', page)
    return str(found)


def test_right_gradient_passes(pytester: pytest.Pytester) -> None:
    make(pytester, PASSING)

    pytester.runpytest().assert_outcomes(passed=1)


def test_wrong_gradient_fails(pytester: pytest.Pytester) -> None:
    make(pytester, FAILING)

    pytester.runpytest().assert_outcomes(failed=1)


def test_failure_shows_the_text_of_the_result(pytester: pytest.Pytester) -> None:
    make(pytester, FAILING)

    output = pytester.runpytest().stdout

    output.fnmatch_lines(
        [
            ">*gradcheck.assert_gradients(wrong(gradcheck), POINT)",
            "E*GradientMismatch: FAIL  gradient of test_made.py::test_wrong at input[[]0[]]*",
            "E*got*wanted*",
        ]
    )


def test_failure_shows_no_frame_of_ours(pytester: pytest.Pytester) -> None:
    make(pytester, FAILING)

    output = pytester.runpytest().stdout

    output.fnmatch_lines(["test_made.py:*: GradientMismatch"])
    output.no_fnmatch_line("*gradcheck/*.py*")


def test_misuse_shows_the_message_and_no_frame_of_ours(pytester: pytest.Pytester) -> None:
    make(pytester, "def test_misuse(gradcheck): gradcheck.check(np.sin, POINT)")

    output = pytester.runpytest().stdout

    output.fnmatch_lines(["E*InputError: expected target to be*", "test_made.py:*: InputError"])
    output.no_fnmatch_line("*gradcheck/*.py*")


def test_failure_says_how_to_run_it_again(pytester: pytest.Pytester) -> None:
    make(pytester, FAILING)

    result = pytester.runpytest("--gradcheck-seed=7")

    result.stdout.fnmatch_lines(["*again: pytest test_made.py::test_wrong --gradcheck-seed=7"])


SUITE = """
from hypothesis import strategies as st
from gradcheck.layers import layer_suite
import gradcheck as package

@layer_suite(n=st.integers(1, 3), examples=2, checks="vjp")
def test_layer(n):
    return wrong(package), (POINT,)
"""


def test_what_runs_it_again_runs_where_pytest_was_started(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(pytester, FAILING, SUITE)
    pytester.makeini("[pytest]")
    below = pytester.mkdir("below")
    monkeypatch.chdir(below)

    pytester.runpytest("..", "--gradcheck-report=report.json").stdout.fnmatch_lines(
        [
            f"*again: pytest {test} --gradcheck-seed=0"
            for test in ("../test_made.py::test_wrong", "'../test_made.py::test_layer[[]vjp[]]'")
        ]
    )
    replays = [shlex.split(found["replay"]) for found in results(below / "report.json")]
    for replay in replays:
        pytester.runpytest(*replay[1:]).assert_outcomes(failed=1)


def test_failing_example_of_hypothesis_shows_no_results(pytester: pytest.Pytester) -> None:
    test = """
from hypothesis import HealthCheck, given, settings, strategies as st

@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(n=st.integers(1, 3))
def test_drawn(gradcheck, n):
    gradcheck.assert_gradients(wrong(gradcheck), POINT[:n])
"""
    make(pytester, test)

    output = pytester.runpytest().stdout

    output.fnmatch_lines(["E*gradcheck=Gradcheck(test='test_made.py::test_drawn', seed=0),"])
    output.no_fnmatch_line("*CheckResult*")


def test_nothing_is_said_when_no_test_uses_the_fixture(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(UNUSED)

    output = pytester.runpytest()

    output.assert_outcomes(passed=1)
    assert "gradcheck" not in output.stdout.str().replace("plugins: gradcheck", "")


def test_collection_says_the_seed_when_a_test_uses_the_fixture(pytester: pytest.Pytester) -> None:
    make(pytester, PASSING)

    pytester.runpytest("--gradcheck-seed=7").stdout.fnmatch_lines(["gradcheck: seed 7"])


def test_summary_counts_the_verdicts(pytester: pytest.Pytester) -> None:
    make(pytester, PASSING, FAILING, IGNORED)

    output = pytester.runpytest().stdout

    output.fnmatch_lines(["*= gradcheck =*", "3 checks in 3 tests: 2 fail, 1 pass; seed 0"])


def test_summary_says_of_a_failure_that_it_was_expected(pytester: pytest.Pytester) -> None:
    make(pytester, "import pytest\n\n@pytest.mark.xfail\n" + FAILING.lstrip())

    output = pytester.runpytest()

    output.assert_outcomes(xfailed=1)
    output.stdout.fnmatch_lines(["FAIL  gradient of *", "*as expected: the test is marked xfail"])


def test_summary_shows_a_failure_that_its_test_ignored(pytester: pytest.Pytester) -> None:
    make(pytester, IGNORED)

    output = pytester.runpytest()

    output.assert_outcomes(passed=1)
    output.stdout.fnmatch_lines(
        [
            "FAIL  gradient of test_made.py::test_ignored at input*",
            "*the test passed all the same: it does not assert this result",
        ]
    )


READ = """
import pytest
import gradcheck as package

def test_compared(gradcheck):
    two = {"one": right(gradcheck), "two": right(gradcheck), "odd": wrong(gradcheck)}
    assert gradcheck.compare(two, POINT).odd_one_out == "odd"

def test_looked_at(gradcheck):
    assert not gradcheck.check(wrong(gradcheck), POINT).passed

def test_raises(gradcheck):
    with pytest.raises(package.GradientMismatch):
        gradcheck.assert_gradients(wrong(gradcheck), POINT)

def test_culprit(gradcheck):
    assert not gradcheck.find_culprit(wrong(gradcheck), POINT).passed

def test_plainly():
    assert not package.check(wrong(package), POINT).passed
"""
SUBTEST = """
import unittest
import gradcheck as package

class TestThem(unittest.TestCase):
    def test_subtest(self):
        with self.subTest(which="wrong"):
            package.assert_gradients(wrong(package), POINT)
"""


@pytest.mark.parametrize("tests", [READ, SUBTEST])
def test_nothing_is_said_to_be_ignored_that_was_not(pytester: pytest.Pytester, tests: str) -> None:
    make(pytester, tests)

    output = pytester.runpytest_subprocess("--gradcheck-report=report.json").stdout

    output.fnmatch_lines(["* fail; seed 0", "FAIL  gradient of *"])
    output.no_fnmatch_line("*all the same*")


def test_a_result_that_is_asserted_fails_its_test(pytester: pytest.Pytester) -> None:
    make(pytester, IGNORED.replace("gradcheck.check", "assert gradcheck.check"))

    output = pytester.runpytest()

    output.assert_outcomes(failed=1)
    output.stdout.no_fnmatch_line("*all the same*")
    output.stdout.fnmatch_lines(["FAIL  gradient of *", "      looks like: *"])  # pytest shows none


def test_interrupted_test_is_not_said_to_have_passed(pytester: pytest.Pytester) -> None:
    make(pytester, PASSING, IGNORED + "    raise KeyboardInterrupt\n")

    output = pytester.runpytest_inprocess(no_reraise_ctrlc=True).stdout

    output.fnmatch_lines(["1 check in 1 test: 1 pass; seed 0"])
    output.no_fnmatch_line("*passed without*")


def test_report_says_of_a_failure_what_the_summary_says(pytester: pytest.Pytester) -> None:
    expected = "import pytest\n\n@pytest.mark.xfail(reason='known')\n" + FAILING.lstrip()
    make(pytester, expected, IGNORED)

    output = pytester.runpytest("--gradcheck-report=report.html").stdout

    page = (pytester.path / "report.html").read_text()
    for remark in ("as expected: the test is marked xfail: known", "the test passed all the same"):
        output.fnmatch_lines([f"      {remark}*"])
        assert f"<p>{remark}" in page


def test_summary_says_which_test_checked_nothing(pytester: pytest.Pytester) -> None:
    make(pytester, "def test_idle(gradcheck): assert False")

    output = pytester.runpytest().stdout

    output.fnmatch_lines(
        [
            "0 checks in 1 test: nothing was checked; seed 0",
            "not checked  test_made.py::test_idle: failed without a check: assert False",
        ]
    )


STOPPED = """
def test_stopped(gradcheck):
    gradcheck.assert_gradients(right(gradcheck), POINT)
    raise ValueError("no layer of size 3")
"""
TORN_DOWN = """
import pytest

@pytest.fixture
def sloppy():
    yield
    raise ValueError("no layer of size 3")

def test_stopped(sloppy, gradcheck):
    gradcheck.assert_gradients(right(gradcheck), POINT)
"""


@pytest.mark.parametrize("test", [STOPPED, TORN_DOWN])
@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "1")])
def test_what_passed_in_a_test_that_failed_is_no_pass(
    pytester: pytest.Pytester, test: str, workers: tuple[str, ...]
) -> None:
    make(pytester, test)

    output = pytester.runpytest("--gradcheck-report=report.html", *workers).stdout

    output.fnmatch_lines(
        [
            "1 check in 1 test: 1 error; seed 0",
            "ERROR  test of test_made.py::test_stopped *",
            "      the test failed for another reason: ValueError: no layer of size 3",
        ]
    )
    assert headline(pytester) == "error"


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ("def test_other(): assert False", "tests failed"),
        ("def test_other(broken, gradcheck): pass", "tests failed"),
        ("def test_other(): raise KeyboardInterrupt", "interrupted"),
    ],
)
def test_no_report_is_green_where_the_session_is_red(
    pytester: pytest.Pytester, other: str, why: str
) -> None:
    make(pytester, PASSING, other)

    pytester.runpytest_inprocess("--gradcheck-report=report.html", no_reraise_ctrlc=True)

    assert headline(pytester) == "inconclusive"
    assert f"pytest did not pass ({why})" in (pytester.path / "report.html").read_text()


def test_seed_comes_from_the_configuration_file(pytester: pytest.Pytester) -> None:
    make(pytester, PASSING)
    pytester.makeini("[pytest]\ngradcheck_seed = 11\n")

    pytester.runpytest().stdout.fnmatch_lines(["*; seed 11"])


def test_seed_of_the_command_line_wins(pytester: pytest.Pytester) -> None:
    make(pytester, PASSING)
    pytester.makeini("[pytest]\ngradcheck_seed = 11\n")

    pytester.runpytest("--gradcheck-seed=7").stdout.fnmatch_lines(["*; seed 7"])


def test_random_seed_is_said_and_another_every_time(pytester: pytest.Pytester) -> None:
    make(pytester, FAILING)

    runs = [pytester.runpytest("--gradcheck-seed=random").stdout.str() for _ in range(2)]
    seeds = [re.findall(r"; seed (\d+)|--gradcheck-seed=(\d+)", run) for run in runs]

    assert all(len({one or other for one, other in found}) == 1 for found in seeds)
    assert seeds[0][0] != seeds[1][0]


@pytest.mark.parametrize("seed", ["-1", "1.5", "lucky", str(2**63)])
def test_seed_that_is_no_number_is_refused(pytester: pytest.Pytester, seed: str) -> None:
    make(pytester, PASSING)

    output = pytester.runpytest(f"--gradcheck-seed={seed}")

    assert output.ret == pytest.ExitCode.USAGE_ERROR
    output.stderr.fnmatch_lines(
        [f"ERROR: --gradcheck-seed: expected a number below 2**63 or random; got '{seed}'"]
    )


def test_seed_reaches_the_check(pytester: pytest.Pytester) -> None:
    make(
        pytester,
        "def test_seed(gradcheck): assert gradcheck.check(right(gradcheck), POINT).seed == 7",
    )

    pytester.runpytest("--gradcheck-seed=7").assert_outcomes(passed=1)


def test_seed_in_the_call_wins(pytester: pytest.Pytester) -> None:
    make(
        pytester,
        "def test_seed(gradcheck):\n"
        "    assert gradcheck.check(right(gradcheck), POINT, seed=3).seed == 3",
    )

    pytester.runpytest("--gradcheck-seed=7").assert_outcomes(passed=1)


def test_json_report_names_each_result_after_its_test(pytester: pytest.Pytester) -> None:
    make(pytester, PASSING, FAILING)

    pytester.runpytest("--gradcheck-report=report.json")

    assert [result["name"] for result in results(pytester.path / "report.json")] == [
        "test_made.py::test_right",
        "test_made.py::test_wrong",
    ]


def test_two_results_of_a_test_have_two_names(pytester: pytest.Pytester) -> None:
    make(
        pytester,
        "def test_two(gradcheck):\n"
        "    gradcheck.check(right(gradcheck), POINT)\n"
        "    gradcheck.check(right(gradcheck), POINT)\n"
        "    gradcheck.check(right(gradcheck), POINT, name='third')\n",
    )

    pytester.runpytest("--gradcheck-report=report.json")

    assert [result["name"] for result in results(pytester.path / "report.json")] == [
        "test_made.py::test_two",
        "test_made.py::test_two (2)",
        "test_made.py::test_two: third",
    ]


def test_comparison_is_recorded(pytester: pytest.Pytester) -> None:
    make(
        pytester,
        "def test_three(gradcheck):\n"
        "    three = {'one': right(gradcheck), 'two': right(gradcheck), 'odd': wrong(gradcheck)}\n"
        "    assert gradcheck.compare(three, POINT).odd_one_out == 'odd'\n",
    )

    pytester.runpytest("--gradcheck-report=report.json").assert_outcomes(passed=1)

    (result,) = results(pytester.path / "report.json")
    assert result["name"] == "test_made.py::test_three"
    assert result["odd_one_out"] == "odd"


WITHOUT_THE_FIXTURE = """
import gradcheck as package
from gradcheck.dropin import asked
from gradcheck.adapters import problem_of
from gradcheck.settings import Settings

def test_right_without():
    package.assert_gradients(right(package), POINT, name="sine")

def test_wrong_without():
    assert not package.check(wrong(package), POINT).passed

def test_dropin_without():
    asked(problem_of(right(package), (POINT,)), "vjp", Settings(), None)

def test_both(gradcheck):
    gradcheck.check(right(package), POINT)
    package.check_sequence(right(package), POINT, state=())
"""


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")])
def test_report_holds_what_was_checked_without_the_fixture(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    make(pytester, WITHOUT_THE_FIXTURE)

    result = pytester.runpytest_subprocess("--gradcheck-report=report.json", *workers)

    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["5 checks in 4 tests: 1 fail, 4 pass; seed 0"])
    verdicts = {
        found["name"].removeprefix("test_made.py::"): found["findings"][0]["verdict"]
        for found in results(pytester.path / "report.json")
    }
    assert verdicts == {
        "test_right_without: sine": "pass",
        "test_wrong_without: sin": "fail",
        "test_dropin_without: sin": "pass",
        "test_both": "pass",
        "test_both: sin": "pass",
    }


def test_nothing_is_said_of_what_was_checked_without_the_fixture(pytester: pytest.Pytester) -> None:
    make(pytester, WITHOUT_THE_FIXTURE.partition("def test_both")[0])

    result = pytester.runpytest_subprocess()

    result.assert_outcomes(passed=3)
    result.stdout.no_fnmatch_line("*gradcheck: seed*")
    result.stdout.no_fnmatch_line("*checks in*")


def test_both_reports_are_written_when_both_are_asked_for(pytester: pytest.Pytester) -> None:
    make(pytester, PASSING)

    pytester.runpytest("--gradcheck-report=report.json", "--gradcheck-report=report.html")

    assert len(results(pytester.path / "report.json")) == 1
    assert "test_made.py::test_right" in (pytester.path / "report.html").read_text()


def test_report_is_written_when_no_test_used_the_fixture(pytester: pytest.Pytester) -> None:
    """A stale file of an earlier session must not pass for this one."""
    pytester.makepyfile(UNUSED)

    output = pytester.runpytest("--gradcheck-report=report.json")

    assert results(pytester.path / "report.json") == []
    output.stdout.fnmatch_lines(["0 checks in 0 tests: nothing was checked; seed 0"])


def test_collecting_alone_writes_nothing(pytester: pytest.Pytester) -> None:
    make(pytester, PASSING)

    options = ("--gradcheck-report=report.json", "--gradcheck-record=record.txt")
    output = pytester.runpytest("--collect-only", *options)

    assert output.ret == pytest.ExitCode.OK
    output.stdout.no_fnmatch_line("*report*")
    assert not [*pytester.path.glob("re*")]


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("report.txt", "expected a path ending in .html or .json"),
        ("absent/report.html", "does not exist"),
    ],
)
def test_unusable_report_path_is_refused_before_any_test_runs(
    path: str, why: str, pytester: pytest.Pytester
) -> None:
    make(pytester, PASSING)

    output = pytester.runpytest(f"--gradcheck-report={path}")

    assert output.ret == pytest.ExitCode.USAGE_ERROR
    output.stderr.fnmatch_lines([f"ERROR: --gradcheck-report: *{why}*"])
    output.stdout.no_fnmatch_line("*collected*")


def test_wrong_seed_in_the_configuration_file_is_refused(pytester: pytest.Pytester) -> None:
    make(pytester, PASSING)
    pytester.makeini("[pytest]\ngradcheck_seed = lucky\n")

    output = pytester.runpytest()

    assert output.ret == pytest.ExitCode.USAGE_ERROR
    output.stderr.fnmatch_lines(
        ["ERROR: gradcheck_seed: expected a number below 2**63 or random; got 'lucky'"]
    )


def test_report_that_cannot_be_written_fails_the_session(pytester: pytest.Pytester) -> None:
    make(
        pytester,
        PASSING,
        "def test_sabotage():\n    import pathlib\n    pathlib.Path('report.json').mkdir()\n",
    )

    output = pytester.runpytest("--gradcheck-report=report.json")

    assert output.ret == pytest.ExitCode.INTERNAL_ERROR
    output.stdout.fnmatch_lines(["no report: *report.json*"])


def test_rerun_replaces_what_it_reran(pytester: pytest.Pytester) -> None:
    make(pytester, IGNORED)
    pytester.makeconftest(
        "from _pytest.runner import runtestprotocol\n"
        "def pytest_runtest_protocol(item, nextitem):\n"
        "    runtestprotocol(item, nextitem=nextitem)\n"
        "    runtestprotocol(item, nextitem=nextitem)\n"
        "    return True\n"
    )

    output = pytester.runpytest("--gradcheck-report=report.json")

    output.assert_outcomes(passed=2)
    assert len(results(pytester.path / "report.json")) == 1


def test_junit_report_stays_free_of_results(pytester: pytest.Pytester) -> None:
    make(pytester, IGNORED)

    pytester.runpytest("--junitxml=junit.xml")

    assert "property" not in (pytester.path / "junit.xml").read_text()


def test_plugin_can_be_switched_off(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PYTEST_PLUGINS")
    pytester.makepyfile(UNUSED)

    output = pytester.runpytest("-p", "no:gradcheck", "--gradcheck-seed=7")

    assert output.ret == pytest.ExitCode.USAGE_ERROR


class TestWorkers:
    """Under pytest-xdist: what workers find arrives, and one process writes."""

    @pytest.fixture(autouse=True)
    def xdist(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("xdist")
        monkeypatch.setenv("PYTEST_PLUGINS", "gradcheck.plugin,xdist")

    def test_report_holds_every_result_once(self, pytester: pytest.Pytester) -> None:
        make(pytester, SEVERAL, IGNORED)

        output = pytester.runpytest("-n2", "--gradcheck-report=report.json")

        output.assert_outcomes(passed=9)
        names = [result["name"] for result in results(pytester.path / "report.json")]
        assert len(names) == 9
        assert set(names) == {
            "test_made.py::test_ignored",
            *(f"test_made.py::test_sizes[{size}]" for size in range(1, 9)),
        }
        output.stdout.fnmatch_lines(["9 checks in 9 tests: 1 fail, 8 pass; seed 0"])

    def test_seed_reaches_the_workers(self, pytester: pytest.Pytester) -> None:
        make(pytester, PASSING)
        pytester.makeconftest(
            "def pytest_configure(config):\n"
            "    if not hasattr(config, 'workerinput'):\n"
            "        config.option.gradcheck_seed = 7\n"
        )

        pytester.runpytest("-n1", "--gradcheck-report=report.json")

        assert [result["seed"] for result in results(pytester.path / "report.json")] == [7]

    def test_crashed_worker_is_said(self, pytester: pytest.Pytester) -> None:
        make(pytester, PASSING, "def test_crash(gradcheck): import os; os._exit(1)")

        output = pytester.runpytest("-n1", "--gradcheck-report=report.json")

        report = json.loads((pytester.path / "report.json").read_text())
        assert report["not_checked"] == ["test_made.py::test_crash: its worker crashed"]
        output.stdout.fnmatch_lines(["not checked  test_made.py::test_crash: its worker crashed"])


TARGETS = """
import gradcheck as package
import numpy as np
import pytest

def twice(x): return 2 * x
def thrice(x): return 3 * x
def once(x): return 1 * x
def before(x): return 4 * x

rules = {f: package.Rule(f, lambda inputs, u, k=k: k * u)
         for k, f in ((1, once), (2, twice), (3, thrice), (4, before))}

@pytest.fixture(scope="session", autouse=True)
def checked_before():
    package.check(rules[before], np.ones(2))

def test_by_the_fixture(gradcheck):
    gradcheck.assert_gradients(rules[twice], np.ones(2))

def test_plainly():
    package.check(rules[thrice], np.ones(2))
"""
CRASHING = """
import os

def test_crash():
    package.check(rules[once], np.ones(2))
    os._exit(3)
"""


def recorded(pytester: pytest.Pytester) -> set[str]:
    lines = (pytester.path / "record.txt").read_text().splitlines()
    assert lines[0].startswith("#")
    return {line.rpartition(".")[2] for line in lines[1:]}


@pytest.mark.parametrize("workers", [(), ("-p", "xdist", "-n", "2")])
def test_record_holds_what_any_process_checked(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    pytester.makepyfile(test_made=TARGETS)

    result = pytester.runpytest_subprocess("--gradcheck-record=record.txt", *workers)

    result.assert_outcomes(passed=2)
    result.stdout.fnmatch_lines([f"record of what was checked: {pytester.path / 'record.txt'}"])
    assert recorded(pytester) == {"twice", "thrice", "before"}


def test_record_outlives_a_worker_that_crashes(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_made=TARGETS + CRASHING)

    pytester.runpytest_subprocess("--gradcheck-record=record.txt", "-p", "xdist", "-n", "1")

    assert {"twice", "thrice", "before"} <= recorded(pytester)


def test_record_ends_with_its_session(pytester: pytest.Pytester) -> None:
    from gradcheck import listeners

    pytester.makepyfile(test_made=TARGETS)
    before = [list(listeners.TARGETS), list(listeners.RESULTS)]

    options = ("--gradcheck-record=record.txt", "--gradcheck-report=report.json")
    pytester.runpytest(*options).assert_outcomes(passed=2)

    assert before == [listeners.TARGETS, listeners.RESULTS]


def test_session_without_a_record_writes_none(pytester: pytest.Pytester) -> None:
    make(pytester, PASSING)

    result = pytester.runpytest()

    result.stdout.no_fnmatch_line("record of*")
    assert not (pytester.path / "record.txt").exists()


def test_record_of_nothing_is_a_file_that_says_nothing(pytester: pytest.Pytester) -> None:
    make(pytester, UNUSED)

    pytester.runpytest("--gradcheck-record=record.txt").assert_outcomes(passed=1)

    assert recorded(pytester) == set()


def test_record_in_a_folder_that_does_not_exist_is_refused(pytester: pytest.Pytester) -> None:
    make(pytester, PASSING)

    result = pytester.runpytest("--gradcheck-record=nowhere/record.txt")

    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*--gradcheck-record: expected a file in a folder that exists*"])
