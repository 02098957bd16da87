"""What is a user's mistake (a line, exit code 2) and what a fault of the software (a trace)."""

import contextlib
import errno
import os

import jsonargparse
import pytest

from recemb.command_line import main as command_line
from recemb.command_line import show
from recemb.command_line.mistakes import mistake_in
from recemb.errors import RecembError


def raised(function) -> BaseException:
    try:
        function()
    except (Exception, jsonargparse.ArgumentError) as error:
        return error
    raise AssertionError("nothing was raised")


def mistake():
    raise RecembError("table 'user': dim must be at least 1, got 0")


def fault_while_a_mistake_is_handled():
    try:
        mistake()
    except RecembError:
        {}["tables"]


def fault_while_a_mistake_leaves():
    try:
        mistake()
    finally:
        {}["tables"]


def fault_that_hides_a_mistake():
    try:
        mistake()
    except RecembError as error:
        raise KeyError("tables") from error


@pytest.mark.parametrize(
    "function",
    [fault_while_a_mistake_is_handled, fault_while_a_mistake_leaves, fault_that_hides_a_mistake],
)
def test_a_fault_beside_a_mistake_is_a_fault(function, monkeypatch):
    assert mistake_in(raised(function), []) is None
    monkeypatch.setattr(show, "run", lambda arguments: function())
    with pytest.raises(KeyError):
        command_line.main(["show", "runs"])


class Refusing:
    """A class that a configuration names."""

    def __init__(self, size: int = 0) -> None:
        if size < 1:
            raise RecembError("size must be at least 1, got 0")


class Broken:
    def __init__(self, size: int = 0) -> None:
        raise KeyError("size")


@pytest.mark.parametrize(
    ("target", "line"), [(Refusing, "size must be at least 1, got 0"), (Broken, None)]
)
def test_what_a_constructor_raises_is_what_counts(target, line, monkeypatch):
    """The parser wraps what is raised where one argument is computed from another."""

    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")

    def parse():
        parser = jsonargparse.ArgumentParser(exit_on_error=False)
        parser.add_class_arguments(Refusing, "first")
        parser.add_argument("--second", type=int)
        parser.link_arguments(
            "first", "second", compute_fn=lambda first: target(0), apply_on="instantiate"
        )
        parser.instantiate_classes(parser.parse_args(["--first.size=1"]))

    found = raised(parse)
    assert type(found) is ValueError  # the parser's own, in the place of what was raised
    assert mistake_in(found, []) == line


def test_a_line_is_one_line_whatever_the_names_in_it():
    error = RecembError("shop.csv: column 'a\r\nb': must not be\n  empty")
    assert mistake_in(error, []) == "shop.csv: column 'a b': must not be empty"


def refusal(number: int, path: str | None = None) -> OSError:
    return OSError(number, os.strerror(number), *([path] if path else []))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
@pytest.mark.parametrize("path", ["run/events.out", None])
def test_a_full_or_read_only_disk_is_a_line_wherever_it_is_met(number, path):
    line = mistake_in(refusal(number, path), [])
    assert line is not None
    assert os.strerror(number) in line
    assert (path or "a file or the output") in line


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.ENOTDIR])
def test_a_refused_path_is_a_line_and_a_refused_socket_a_fault(number):
    assert "run/csv: the system refuses" in str(mistake_in(refusal(number, "run/csv"), []))
    assert mistake_in(refusal(number), []) is None


@pytest.mark.parametrize("number", [errno.ENOENT, errno.EISDIR, errno.EEXIST])
def test_a_missing_file_is_a_mistake_where_the_user_named_it(number):
    error = refusal(number, "users.csv")
    assert "users.csv: the system refuses" in str(mistake_in(error, ["--users-file", "users.csv"]))
    assert "users.csv: the system refuses" in str(mistake_in(error, ["--users-file=users.csv"]))
    assert mistake_in(error, ["--users", "7"]) is None


def test_a_full_disk_behind_the_output_is_a_line(capsys, monkeypatch):
    full = open("/dev/full", "w")  # noqa: SIM115
    monkeypatch.setattr("sys.stdout", full)
    assert command_line.main(["kinds"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    monkeypatch.undo()
    with contextlib.suppress(OSError):
        full.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES])
def test_refusals_from_deep_within_a_library_are_lines(number, capsys, monkeypatch):
    """As the loggers raise them, in Lightning."""
    error = refusal(number, "run/csv/metrics.csv")

    def run(arguments):
        raise error

    monkeypatch.setattr(show, "run", run)
    assert command_line.main(["show", "runs"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("recemb show: run/csv/metrics.csv: the system refuses")
