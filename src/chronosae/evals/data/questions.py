"""What evaluations ask: multiple-choice questions with four options, and single words."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chronosae.config import UserError
from chronosae.evals.data.providers import Providers, csv_rows, in_split, jsonl_rows, text_field

LETTERS = "ABCD"


@dataclass(frozen=True)
class Question:
    """A stem and four options, of which exactly `options[answer]` is right."""

    stem: str
    options: tuple[str, str, str, str]
    answer: int
    fact: str
    """What is asked about: questions about one fact are resampled together. The stem where nothing else is known."""


@dataclass(frozen=True)
class QuestionSet:
    """Questions of one subject."""

    name: str
    questions: tuple[Question, ...]

    def __len__(self) -> int:
        return len(self.questions)


def read_question_file(path: Path, split: str) -> QuestionSet:
    """MMLU's header-less .csv (question, A, B, C, D, answer letter), or .jsonl with question, choices, answer (0 to 3).

    `split` is for registered sets; a file is one set.

    Raises:
        UserError: a row is damaged (it is named), or there is none.
    """
    if path.is_dir() or not path.is_file():
        raise UserError(f"{path}: no such file; give a .csv or .jsonl file of questions")
    if path.suffix == ".csv":
        found = [_from_csv(cells, where) for where, cells in csv_rows(path)]
    else:
        found = [_from_json(row, where) for where, row in jsonl_rows(path)]
    if not found:
        raise UserError(f"{path}: holds no question")
    return QuestionSet(path.stem.removesuffix("_test"), tuple(found))


def _from_csv(cells: list[str], where: str) -> Question:
    if len(cells) != 6 or cells[5].strip() not in LETTERS or not cells[5].strip():
        raise UserError(f"{where}: a row is question, A, B, C, D, answer letter; this one has {len(cells)} cells")
    a, b, c, d = cells[1:5]
    return Question(cells[0], (a, b, c, d), LETTERS.index(cells[5].strip()), cells[0])


def _from_json(row: dict[str, Any], where: str) -> Question:
    stem, choices, answer = text_field(row, "question", where), row.get("choices"), row.get("answer")
    if not (isinstance(choices, list) and len(choices) == 4 and all(isinstance(c, str) for c in choices)):
        raise UserError(f"{where}: 'choices' must be four texts")
    if isinstance(answer, str) and answer in LETTERS and answer:
        answer = LETTERS.index(answer)
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < 4:
        raise UserError(f"{where}: 'answer' must be 0 to 3 or a letter A to D")
    a, b, c, d = choices
    return Question(stem, (a, b, c, d), answer, str(row.get("fact", stem)))


QUESTIONS: Providers[QuestionSet] = Providers(
    "questions", read_question_file, "MMLU's header-less .csv, or .jsonl with question, choices and answer"
)


@dataclass(frozen=True)
class WordList:
    """Different words of the letters a to z, in either case."""

    name: str
    words: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.words)


def first_letter(word: str) -> str:
    """The letter a word begins with, in lower case; a space before the word (a token's) doesn't count."""
    return word.strip()[0].lower()


def read_word_file(path: Path, split: str) -> WordList:
    """A text file with one word a line, cut into train and test by a hash of the words, one in five for the test.

    Lines of anything but the letters a to z (accents, hyphens, numbers) are passed over; a word counts once.

    Raises:
        UserError: the file can't be read as UTF-8, or no line holds a word.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; give a text file with one word a line")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: can't be read as UTF-8 text ({error})") from None
    found = dict.fromkeys(line.strip() for line in lines)
    words = tuple(word for word in found if word.isascii() and word.isalpha() and in_split(word, split))
    if not words:
        raise UserError(f"{path}: no line of the {split} part holds a word of the letters a to z")
    return WordList(path.stem, words)


WORDS: Providers[WordList] = Providers("words", read_word_file, "a text file with one word a line")
