"""The pages in docs/architectures: complete, up to date, and their code runs as it stands."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from chronosae.cli.catalogue import causal, reads
from chronosae.cli.pages import pages
from chronosae.presets import PRESETS
from chronosae.presets.catalogue import REGISTRIES, default_spec

FOLDER = Path(__file__).parents[2] / "docs" / "architectures"
SECTIONS = ["Equation", "Data flow", "Options", "Cost", "When to use it", "Example", "What we measured"]
PAGES = sorted(FOLDER.glob("*.md"))
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#\s]+)")


def text_of(name: str) -> str:
    return (FOLDER / f"{name}.md").read_text(encoding="utf-8")


@pytest.fixture
def registries_as_they_were() -> Iterator[None]:
    """Parts that a page registers are gone afterwards."""
    before = {registry: set(registry) for registry in REGISTRIES}
    yield
    for registry, known in before.items():
        for name in set(registry) - known:
            registry.remove(name)


@pytest.mark.parametrize("page", [page for page in PAGES if BLOCK.search(page.read_text())], ids=lambda page: page.stem)
def test_the_code_on_a_page_runs_as_it_stands(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registries_as_they_were: None
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(BLOCK.findall(page.read_text(encoding="utf-8")))
    exec(compile(code, str(page), "exec"), {"__name__": page.stem})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_has_a_page_with_every_section_and_a_short_example(name: str) -> None:
    text = text_of(name)
    assert re.findall(r"^## (.*)", text, re.MULTILINE) == SECTIONS
    assert text.startswith(f"# `{name}`: ")
    assert "```math" in text and "```mermaid" in text and "planted.md" in text
    (example,) = BLOCK.findall(text)
    assert len([line for line in example.splitlines() if line and not re.match("from|import", line)]) <= 5


def test_generated_parts_of_the_pages_are_up_to_date() -> None:
    for path, text in pages(FOLDER):
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: run `make docs`"


def test_the_overview_lists_every_preset_with_what_its_spec_says() -> None:
    rows = re.findall(
        r"^\| \[`(\w+)`\]\((\w+)\.md\) \|.*\| (\S+) \| ([^|]+) \|[^|]*\|[^|]*\|$", text_of("README"), re.M
    )
    expected = [(n, n, causal(default_spec(n).causal), reads(default_spec(n).receptive_field)) for n in PRESETS]
    assert sorted(rows) == sorted(expected)


def test_links_between_pages_lead_somewhere() -> None:
    for page in [*PAGES, *FOLDER.parent.glob("extend/*.md")]:
        for target in LINK.findall(page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"
