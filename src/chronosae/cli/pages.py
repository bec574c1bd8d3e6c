"""Keeps the generated parts of docs/architectures up to date: `python -m chronosae.cli.pages docs/architectures`.

A page about a preset is written by hand, but for what stands between two comments, `<!-- options -->` and
`<!-- /options -->`. `parts.md` is generated as a whole. Both are made from docstrings and defaults.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill

from chronosae.config.reference import markdown_table
from chronosae.config.registry import PartSpec
from chronosae.presets import PRESETS
from chronosae.presets.catalogue import REGISTRIES, kind_entries, kinds, option_entries

OPTIONS = re.compile(r"<!-- options -->\n.*?<!-- /options -->", re.DOTALL)
REFERENCE = re.compile(r" \(DESIGN [^)]*\)")  # to the notes of those who write the code
PARTS = "parts.md"


def with_options(page: str, name: str) -> str:
    """The page with the options of preset `name` between its markers.

    Raises:
        ValueError: the markers are missing or there are several.
    """
    table = f"<!-- options -->\n{markdown_table(option_entries(name))}\n<!-- /options -->"
    page, count = OPTIONS.subn(lambda _: table, page)
    if count != 1:
        raise ValueError(f"the page of {name} needs one <!-- options --> ... <!-- /options -->, it has {count}")
    return page


def parts_page() -> str:
    """Every kind of every slot with its options."""
    blocks = [
        "# Parts",
        "Every kind of part that fits a slot of an autoencoder, with its options. In a configuration a part is\n"
        "a mapping with its `kind`, such as `kernel: {kind: conv, rates: [1, 2, 4]}`. A preset's page says which\n"
        "options fill which slots. Made by `make docs` from the docstrings in `src/chronosae/autoencoders/parts`.\n"
        "[Your own part](your-own-part.md) takes 30 lines.",
    ]
    for registry in REGISTRIES:
        listed = kinds(registry)
        if listed:
            blocks.append(f"## {registry.sort.capitalize()}")
        blocks += [block for kind, spec in listed.items() for block in _kind(kind, spec)]
    return "\n\n".join(blocks) + "\n"


def pages(folder: Path) -> Iterator[tuple[Path, str]]:
    """Each page in `folder` that is generated, wholly or in part, and what should stand in it."""
    yield folder / PARTS, parts_page()
    for name in PRESETS:
        path = folder / f"{name}.md"
        if path.is_file():
            yield path, with_options(path.read_text(encoding="utf-8"), name)


def _kind(kind: str, spec: type[PartSpec]) -> Iterator[str]:
    yield f"### `{kind}`"
    yield fill(" ".join(REFERENCE.sub("", spec.__doc__ or "").split()), width=120, break_on_hyphens=False)
    options = kind_entries(spec)
    if options:
        yield markdown_table(options)


if __name__ == "__main__":
    for path, text in pages(Path(sys.argv[1])):
        path.write_text(text, encoding="utf-8")
