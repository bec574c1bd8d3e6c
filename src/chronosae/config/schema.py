"""What a run may be told: every field, its type, its bounds, and its reason.

The docstring under a field is its documentation: `chronosae config` and the error messages are made from it.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]

OWN_EVALUATIONS = ("sparse_probing", "order_probing", "absorption", "scr", "tpp", "ravel", "unlearning", "autointerp")


class Section(BaseModel):
    """Base of every part of a configuration: unknown keys are errors, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)


class SubjectConfig(Section):
    """The language model under study."""

    model: str = "world"
    """`world` (the embedded model), a local folder in Hugging Face form, or a Hugging Face name."""
    sites: list[str] = Field(default=["blocks.2.hook_resid_post"], min_length=1)
    """Hook points by TransformerLens name, such as `blocks.12.hook_resid_post`; all are read in one pass."""
    tokenizer: str | None = None
    """Folder or name of the tokenizer; the model's own when absent."""
    revision: str | None = None
    """Revision of a Hugging Face model."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision in which the subject runs."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1` ...: where the subject and the autoencoders live."""
    device_map: str | None = None
    """Passed to transformers (`auto`, `balanced` ...) for models larger than one GPU; needs `chronosae[device-map]`."""
    trust_remote_code: bool = False
    """Run code that comes with the model. Only for a source you trust."""


class SourceConfig(Section):
    """One source of text in a mixture."""

    path: str
    """A registered corpus (`world`), a local .txt/.jsonl/.parquet file or folder of them, or a Hugging Face name."""
    weight: float = Field(default=1.0, gt=0)
    """Relative share of the documents drawn from this source."""
    name: str | None = None
    """The name that travels with each sequence; the path's last part when absent."""
    subset: str | None = None
    """Subset (configuration name) of a Hugging Face data set or of a registered corpus."""
    split: str = "train"
    """Split of a Hugging Face data set or of a registered corpus."""
    text_field: str = "text"
    """Field that holds the text in .jsonl, parquet and Hugging Face rows."""
    separator: str | None = "\n\n"
    """What ends a document in a .txt file (a blank line by default); null makes each file one document."""


class CorpusConfig(Section):
    """The text the subject reads."""

    path: str | None = None
    """A single source, as in `sources[].path`; the other single-source fields are taken from here too."""
    subset: str | None = None
    """As in `sources[].subset`, for `path`."""
    split: str = "train"
    """As in `sources[].split`, for `path`."""
    text_field: str = "text"
    """As in `sources[].text_field`, for `path`."""
    separator: str | None = "\n\n"
    """As in `sources[].separator`, for `path`."""
    sources: list[SourceConfig] = []
    """A weighted mixture, instead of `path`."""
    eval_path: str | None = None
    """Text for the evaluations, none of it trained on. Absent: every `holdout_every`-th document is held out."""
    eval_split: str | None = None
    """Split of `eval_path`; `split` when absent."""
    eval_subset: str | None = None
    """Subset of `eval_path`; `subset` when absent."""
    holdout_every: Annotated[int, Field(ge=2)] = 20
    """With no `eval_path`: one document in this many is never trained on and serves the evaluations."""

    @model_validator(mode="after")
    def _one_way_to_name_text(self) -> "CorpusConfig":
        if self.path is not None and self.sources:
            raise ValueError("give either path (one source) or sources (a mixture), not both")
        if self.eval_path is None and (self.eval_split or self.eval_subset):
            raise ValueError("eval_split and eval_subset belong to eval_path, which is absent")
        return self

    def resolved_evaluation(self) -> SourceConfig | None:
        """What `eval_path` names; None when it is absent."""
        if self.eval_path is None:
            return None
        return SourceConfig(
            path=self.eval_path,
            subset=self.eval_subset or self.subset,
            split=self.eval_split or self.split,
            text_field=self.text_field,
            separator=self.separator,
        )

    def resolved_sources(self) -> list[SourceConfig]:
        """The sources as a list, whichever way they were named (`world` when neither was)."""
        if self.sources:
            return self.sources
        return [
            SourceConfig(
                path=self.path or "world",
                subset=self.subset,
                split=self.split,
                text_field=self.text_field,
                separator=self.separator,
            )
        ]


class ActivationsConfig(Section):
    """How activations are harvested and kept."""

    context: Annotated[int, Field(ge=2)] = 128
    """Tokens a sequence, the leading special token included."""
    prepend_bos: bool = True
    """Start every context and every document with the tokenizer's BOS token, where it has one."""
    exclude_special: bool = True
    """Leave BOS, EOS, padding, and the first position (an attention sink) out of losses and metrics."""
    normalise: Literal["dataset", "token", "none"] = "dataset"
    """`dataset`: one factor brings the mean norm to sqrt(d_in); `token`: every vector is brought there; or `none`."""
    normalise_tokens: Positive = 32_768
    """Tokens from which the `dataset` factor and the initial b_dec (the mean) are measured."""
    shuffle_buffer: Positive = 1024
    """Sequences among which the next one is drawn. Sequences are shuffled, tokens never."""
    harvest_sequences: Positive = 32
    """Sequences a forward pass of the subject."""
    store: Literal["stream", "cache"] = "stream"
    """`stream`: harvested as training goes; `cache`: written once to `cache_dir`, then read at disk speed."""
    cache_dir: str | None = None
    """Folder of the cache; the run folder's `activations` when absent."""
    cache_dtype: Literal["float32", "bfloat16", "int8"] = "bfloat16"
    """Precision on disk; `int8` keeps one scale a token."""
    ahead: Literal["auto", "always", "never"] = "auto"
    """Make the next batches on a thread of their own while the autoencoders step; `auto`: where a GPU does the work.
    The batches are the same ones."""


class TrainingConfig(Section):
    """How the autoencoders are trained."""

    tokens: Positive = 1_000_000
    """Tokens each autoencoder sees (positions of contexts, masked ones included)."""
    batch_tokens: Positive = 2048
    """Tokens an optimiser step; a whole number of contexts."""
    lr: float = Field(default=1e-3, gt=0)
    """Peak learning rate; an autoencoder's own `lr` overrides it."""
    warmup_steps: NonNegative = 100
    """Steps of linear warm-up."""
    decay_fraction: Fraction = 0.2
    """Share of the steps, at the end, over which the rate falls linearly to zero."""
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = (0.9, 0.999)
    """AdamW's moment decay rates."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's decoupled weight decay."""
    clip: Literal["norm", "parameter", "none"] = "norm"
    """Clip gradients by the global norm, by each parameter's own norm, or not."""
    clip_norm: float = Field(default=1.0, gt=0)
    """Largest gradient norm that `clip` lets pass."""
    autocast: bool = False
    """Run the autoencoders' products in bfloat16."""
    optimizer_state: Literal["float32", "bfloat16"] = "float32"
    """Precision of AdamW's two moments; bfloat16 (rounded at random, so that slow means move) takes half the memory."""
    seeds: list[int] = Field(default=[0], min_length=1)
    """One autoencoder of every kind for each seed, on the same data in the same order."""
    dead_after_tokens: Positive = 200_000
    """A feature that hasn't fired for this many unmasked tokens counts as dead."""
    log_every: Positive = 20
    """Steps between lines of metrics.jsonl."""
    checkpoint_every: NonNegative = 500
    """Steps between checkpoints (one also comes when a run is interrupted or ends); 0 writes only those."""

    @model_validator(mode="after")
    def _distinct_seeds(self) -> "TrainingConfig":
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds holds the same seed twice")
        return self


class CoreEvalConfig(Section):
    """The core evaluation: reconstruction, sparsity and what the subject makes of the reconstruction."""

    tokens: Positive = 65_536
    """Tokens for FVE, sparsity and feature densities."""
    behaviour_tokens: Positive = 16_384
    """Tokens for cross-entropy and KL (each needs extra forward passes of the subject)."""
    batch_sequences: Positive = 16
    """Sequences a forward pass."""


class EvalsConfig(Section):
    """Which evaluations run after training.

    Any other evaluation by its name, the package's (`docs/evaluations/README.md`) or anybody's own. Absent or null
    leaves it out, {} runs it with its defaults; `chronosae eval --options NAME` prints what may stand in it. Names and
    options are checked where evaluations are known, before anything is computed.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Any] | None] = Field(init=False)  # pyright: ignore[reportIncompatibleVariableOverride]

    core: CoreEvalConfig | None = CoreEvalConfig()
    """null switches it off."""

    @property
    def options(self) -> dict[str, dict[str, Any] | None]:
        """What is given for each evaluation that is named, and for core; None: switched off."""
        return {"core": self.core and self.core.model_dump(), **(self.__pydantic_extra__ or {})}

    @model_validator(mode="before")
    @classmethod
    def _name_those_left_out(cls, given: Any) -> Any:
        """The package's own are always there, so that the hash of a configuration stays what it was."""
        return dict.fromkeys(OWN_EVALUATIONS) | given if isinstance(given, dict) else given


class LoggingConfig(Section):
    """Where live metrics go besides metrics.jsonl."""

    extras: list[Literal["wandb", "tensorboard", "trackio"]] = []
    """Each needs the extra of the same name; keys come from the environment and are never written."""
    project: str = "chronosae"
    """Project name at the service."""


class RunConfig(Section):
    """Everything a run needs to be repeated."""

    name: str = "run"
    """Title of the run, used in notes and tables."""
    description: str = ""
    """One or two sentences on why this run exists; copied into notes.md."""
    seed: int = 0
    """Seed of the data order and of everything else that is not an autoencoder's own."""
    subject: SubjectConfig = SubjectConfig()
    corpus: CorpusConfig = CorpusConfig()
    activations: ActivationsConfig = ActivationsConfig()
    training: TrainingConfig = TrainingConfig()
    saes: dict[str, dict[str, Any]] = Field(min_length=1)
    """Name -> preset and its options; a preset's options are validated where the preset is defined."""
    evals: EvalsConfig = EvalsConfig()
    logging: LoggingConfig = LoggingConfig()

    @model_validator(mode="after")
    def _whole_contexts(self) -> "RunConfig":
        context, batch = self.activations.context, self.training.batch_tokens
        if batch % context:
            raise ValueError(
                f"training.batch_tokens ({batch}) must be a whole number of contexts of activations.context ({context})"
                f" tokens, for instance {max(1, batch // context) * context}"
            )
        if self.training.tokens < batch:
            raise ValueError(
                f"training.tokens ({self.training.tokens}) is less than one step of training.batch_tokens ({batch}):"
                " nothing would be trained"
            )
        return self

    @property
    def steps(self) -> int:
        """Optimiser steps: whole batches within the token budget."""
        return self.training.tokens // self.training.batch_tokens

    @property
    def batch_sequences(self) -> int:
        """Sequences an optimiser step."""
        return self.training.batch_tokens // self.activations.context
