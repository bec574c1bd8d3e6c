"""Lists of words, for evaluations that ask about a word itself."""

from dataclasses import dataclass
from pathlib import Path

from chronosae.config import UserError
from chronosae.evals.data.providers import Providers
from chronosae.evals.data.rows import in_split


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
