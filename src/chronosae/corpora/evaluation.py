"""The text of the evaluations, and that it isn't the text of the training."""

import filecmp
from pathlib import Path

from chronosae.config import CorpusConfig, UserError
from chronosae.corpora.local import LocalSource, is_local
from chronosae.corpora.source import Source, open_source


def open_evaluation_source(cfg: CorpusConfig) -> Source:
    """What `eval_path` names; only for a corpus that has one.

    Raises:
        UserError: it can't be opened, or training reads it too: the same source (by fingerprint), or one and the same
            local file, by whatever name and however cut into documents.
    """
    evaluation = cfg.resolved_evaluation()
    assert evaluation is not None
    source = open_source(evaluation, "corpus.eval_path")
    for trained in cfg.resolved_sources():
        # Others can't be the same text, and to open them may take the network.
        if trained.path == evaluation.path or (is_local(trained.path) and is_local(evaluation.path)):
            _refuse_trained(source, open_source(trained), evaluation.path, evaluation.split)
    return source


def _refuse_trained(source: Source, trained: Source, path: str, split: str) -> None:
    if isinstance(source, LocalSource) and isinstance(trained, LocalSource):
        file = _shared_file(source, trained)
        if file is not None:
            raise UserError(
                f"corpus.eval_path: {file} is trained on too (source {trained.name!r}); give other text, or none:"
                " then every corpus.holdout_every-th document is held out"
            )
    elif type(source) is type(trained) and source.fingerprint == trained.fingerprint:
        raise UserError(
            f"corpus.eval_path: {path!r} with split {split!r} is trained on too (source {trained.name!r}); set"
            " corpus.eval_split or corpus.eval_subset to another part, or give other text"
        )


def _shared_file(source: LocalSource, trained: LocalSource) -> Path | None:
    """A file of `source` whose content `trained` has too; only files of one size are read."""
    sizes: dict[int, list[Path]] = {}
    for file in trained.files:
        sizes.setdefault(file.stat().st_size, []).append(file)
    for file in source.files:
        size = file.stat().st_size
        if size and any(_same(file, other) for other in sizes.get(size, ())):
            return file
    return None


def _same(file: Path, other: Path) -> bool:
    try:
        return filecmp.cmp(file, other, shallow=False)
    except OSError:  # reading it as text will say so, in one line
        return False
