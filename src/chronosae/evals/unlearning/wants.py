"""What the evaluation needs and doesn't have, all at once."""

from chronosae.config import SourceConfig, UserError
from chronosae.corpora import open_source
from chronosae.evals.data import QUESTIONS
from chronosae.evals.preflight import Missing, Setting
from chronosae.evals.unlearning.knows import KEY
from chronosae.evals.unlearning.options import UnlearningOptions


def missing_pieces(options: UnlearningOptions, setting: Setting) -> list[Missing]:
    """Texts that can't be opened, questions that can't be read, a chat template that isn't there."""
    texts = [("forget_text", options.forget_text), ("retain_text", options.retain_text)]
    found = [_missing_text(source, f"{KEY}.{field}") for field, source in texts]
    found.append(QUESTIONS.missing(options.forget_questions, f"{KEY}.forget_questions"))
    found += [QUESTIONS.missing(name, f"{KEY}.kept_questions") for name in options.kept_questions]
    if options.chat:
        found.append(_missing_template(setting.subject))
    return [missing for missing in found if missing is not None]


def _missing_text(source: SourceConfig, key: str) -> Missing | None:
    try:
        open_source(source, f"{key}.path")
    except UserError as error:
        return Missing(
            f"the text {source.path}",
            str(error).removeprefix(f"{key}.path: "),
            "if it is gated, ask for access on its page and put HF_TOKEN into the environment; or give local"
            f" .txt, .jsonl or parquet files with --set {key}.path=PATH",
        )
    return None


def _missing_template(subject: str) -> Missing | None:
    from transformers import AutoTokenizer

    how = f"take an instruct model, or set --set {KEY}.chat=false"
    try:
        tokenizer = AutoTokenizer.from_pretrained(subject)
    except Exception as error:  # offline, gated, no such folder ... the remedy is the same
        why = f"its tokenizer can't be read ({type(error).__name__})"
        return Missing(f"the chat template of {subject}", why, f"download the model, {how}")
    if not getattr(tokenizer, "chat_template", None):
        return Missing(f"the chat template of {subject}", "its tokenizer has none", how)
    return None
