"""Small pieces of Markdown. Text from configurations is shown as written, never obeyed."""

import re
from collections.abc import Iterable, Sequence

# What Markdown or HTML would act on inside a line.
_ACTIVE = re.compile(r"([\\`*{}\[\]<>|#~&!]|(?<!\w)_|_(?!\w))")


def escape(text: str) -> str:
    """One line of text that Markdown shows as it is, inside table cells too."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    line = _ACTIVE.sub(r"\\\1", line)
    # a line that starts like a list or a rule would become one
    return re.sub(r"^([-+=]|\d+[.)])", lambda match: match[0][:-1] + "\\" + match[0][-1], line)


def code(text: str) -> str:
    """Inline code, for table cells too: a fence longer than any in the text; pipes escaped."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split()).replace("|", "\\|")
    if not line:
        return "` `"
    ticks = "`" * (1 + max((len(run) for run in re.findall(r"`+", line)), default=0))
    pad = " " if line[0] == "`" or line[-1] == "`" else ""
    return f"{ticks}{pad}{line}{pad}{ticks}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A pipe table; cells are already escaped. The first `left` columns are aligned left, the rest right."""
    rule = [":--" if i < left else "--:" for i in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [header, rule, *rows])


def bullets(items: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {item}" for item in items)
