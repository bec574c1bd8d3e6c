"""`chronosae eval`: what is wrong is one line, before anything is computed."""

from pathlib import Path

import pytest

from chronosae.cli import main
from chronosae.config import UserError
from chronosae.evals import EVALUATIONS
from chronosae.pipeline.evaluations import parse_names


def test_all_is_every_evaluation_and_names_are_taken_once() -> None:
    assert parse_names("all") == (list(EVALUATIONS), True)
    assert parse_names("unlearning, core,unlearning") == (["unlearning", "core"], False)


@pytest.mark.parametrize("text", ["nonsense", "core,nonsense", "", ","])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(text: str) -> None:
    with pytest.raises(UserError, match="sparse_probing"):
        parse_names(text)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["eval"], "missing argument 'RUN'"),
        (["eval", "{empty}"], "holds no complete run"),
        (["eval", "{empty}", "--evals", "nonsense"], "isn't one of all, core"),
        (["eval", "--options", "nonsense"], "unknown evaluation 'nonsense'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([part.replace("{empty}", str(tmp_path)) for part in arguments]) == 2
    error = capsys.readouterr().err
    assert says in error and error.count("\n") == 1


def test_the_options_of_an_evaluation_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "--options", "unlearning"]) == 0
    assert "evals.unlearning.multipliers" in capsys.readouterr().out
