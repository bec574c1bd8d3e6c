"""Position masks: `a = relu(pre) * M[p, f]` before selection (DESIGN 5.D).

Features closed at p (M = 0) aren't eligible.
"""

from typing import Annotated, Any, ClassVar, Literal

import torch
from jaxtyping import Float, Int
from pydantic import Field, model_validator
from torch import Tensor, nn

from chronosae.autoencoders.parts import ModuleSpec, Positive
from chronosae.config.registry import Registry
from chronosae.kernels import sigmoid, some_entries

POSITION_MASKS: Registry["PositionMaskSpec"] = Registry("position mask")


class PositionMaskSpec(ModuleSpec):
    """Base of the position masks."""

    context: Positive = 128
    """Positions that the mask knows, L."""
    beyond: Literal["error", "last", "wrap"] = "error"
    """What a position of L or more gets: an error, the last position's mask, or the mask from the start again."""
    masked_gradients: bool = False
    """Encoder, decoder and encoder bias get a gradient only where M >= 0.5; the mask's logits always do."""

    def make(self, d_in: int, d_sae: int) -> "PositionMask":
        raise NotImplementedError


class LearnedMaskSpec(PositionMaskSpec):
    """Base of the masks that train."""

    lr_multiplier: Annotated[float, Field(gt=0)] = 10.0
    """Learning rate of the mask, relative to the run's: one logit sees few tokens."""
    lr_schedule: Literal["run", "constant", "cosine"] = "run"
    """`run`: follows the run's schedule; `constant`; `cosine`: falls to zero at the last step."""


@POSITION_MASKS.add
class HardMask(PositionMaskSpec):
    """Each feature is open at `context / share` positions: drawn at random, or a block per feature in turn."""

    kind: Literal["hard"] = "hard"
    layout: Literal["random", "structured"] = "random"
    share: Positive = 8
    """One in how many positions is open."""

    @model_validator(mode="after")
    def _room(self) -> "HardMask":
        if self.share > self.context:
            raise ValueError(f"share ({self.share}) leaves no position of the context ({self.context}) open")
        return self

    def make(self, d_in: int, d_sae: int) -> "PositionMask":
        open_positions = self.context // self.share
        if self.layout == "random":
            ranks = torch.rand(self.context, d_sae).argsort(dim=0)
            return FixedMask(self, (ranks < open_positions).to(torch.get_default_dtype()))
        start = torch.arange(d_sae) % self.share * open_positions
        offset = torch.arange(self.context).unsqueeze(1) - start
        return FixedMask(self, ((offset >= 0) & (offset < open_positions)).to(torch.get_default_dtype()))


@POSITION_MASKS.add
class SliceMask(PositionMaskSpec):
    """Features in `slices` equal shares; share i is open in the i-th of as many contiguous stretches of positions."""

    kind: Literal["slices"] = "slices"
    slices: Positive = 8

    @model_validator(mode="after")
    def _room(self) -> "SliceMask":
        if self.slices > self.context:
            raise ValueError(f"slices ({self.slices}) must be at most the context ({self.context})")
        return self

    def make(self, d_in: int, d_sae: int) -> "PositionMask":
        return FixedMask(self, contiguous(self.context, d_sae, self.slices))


@POSITION_MASKS.add
class GroupMask(PositionMaskSpec):
    """Early, middle and late features, and a share of features open everywhere."""

    kind: Literal["groups"] = "groups"
    everywhere: Annotated[float, Field(ge=0, lt=1)] = 0.25
    """Share of features that are open at every position."""

    @model_validator(mode="after")
    def _room(self) -> "GroupMask":
        if self.context < 3:
            raise ValueError(f"early, middle and late need a context of at least 3, got {self.context}")
        return self

    def make(self, d_in: int, d_sae: int) -> "PositionMask":
        n_everywhere = int(self.everywhere * d_sae)
        grouped = contiguous(self.context, d_sae - n_everywhere, 3)
        return FixedMask(self, torch.cat([torch.ones(self.context, n_everywhere), grouped], dim=1))


@POSITION_MASKS.add
class SoftMask(LearnedMaskSpec):
    """`M = sigmoid(logit)`, learned."""

    kind: Literal["soft"] = "soft"
    initial: tuple[float, float] = (0.3, 0.7)
    """M starts uniform in this range; the original logs used [0.1, 0.2] and [0.3, 0.7]."""

    @model_validator(mode="after")
    def _inside(self) -> "SoftMask":
        low, high = self.initial
        if not 0 < low <= high < 1:
            raise ValueError(f"initial must be a range inside (0, 1), got [{low}, {high}]")
        return self

    def make(self, d_in: int, d_sae: int) -> "PositionMask":
        low, high = self.initial
        return SoftPositionMask(self, torch.logit(low + (high - low) * torch.rand(self.context, d_sae)))


@POSITION_MASKS.add
class ImportanceMask(LearnedMaskSpec):
    """`M[p, f] = L softmax_p(logit[p, f])`: mean 1 over positions, so a feature that gains here loses there."""

    kind: Literal["importance"] = "importance"
    lr_multiplier: Annotated[float, Field(gt=0)] = 12.0
    """Learning rate of the mask, relative to the run's."""

    def make(self, d_in: int, d_sae: int) -> "PositionMask":
        return ImportancePositionMask(self, torch.zeros(self.context, d_sae))


def contiguous(context: int, d_sae: int, parts: int) -> Float[Tensor, "context d_sae"]:
    """1 where the feature's part of the dictionary and the position's part of the context are the same, else 0."""
    feature_part = torch.arange(d_sae) * parts // max(d_sae, 1)
    position_part = torch.arange(context) * parts // context
    return (position_part.unsqueeze(1) == feature_part).to(torch.get_default_dtype())


class PositionMask(nn.Module):
    """Base of the modules: `weights()` is M, the rest follows from it."""

    by_entry: ClassVar[bool] = True
    """`forward` is `weigh`, entry by entry, so that the chosen features' entries are enough. False for a subclass with
    a `forward` of its own, unless it says otherwise: the training step then computes all pre-activations."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "forward" in vars(cls) and "by_entry" not in vars(cls):
            cls.by_entry = False

    def __init__(self, cfg: PositionMaskSpec) -> None:
        super().__init__()
        self.cfg = cfg

    def weights(self) -> Float[Tensor, "context d_sae"]:
        """M, at least 0."""
        raise NotImplementedError

    @torch.no_grad()
    def constant(self) -> Float[Tensor, "context d_sae"]:
        """M without gradient."""
        return self.weights()

    def of_rows(self, rows: Int[Tensor, "*n"]) -> Float[Tensor, "*n d_sae"]:
        """Rows of M, which may repeat."""
        return self.weights()[rows]

    def rows(self, positions: Int[Tensor, "batch pos"]) -> Int[Tensor, "batch pos"]:
        """The row of M for each position; masked tokens before the first real one (-1) get row 0.

        Raises:
            ValueError: a position beyond the mask, unless `beyond` says what to do.
        """
        length = self.cfg.context
        if self.cfg.beyond == "wrap":
            return positions.clamp_min(0) % length
        if self.cfg.beyond == "error" and positions.numel() and int(positions.max()) >= length:
            raise ValueError(
                f"position {int(positions.max())} is beyond the position mask, which knows 0 to {length - 1};"
                " build with a longer `context`, or with beyond='last' or 'wrap'"
            )
        return positions.clamp(0, length - 1)

    def forward(
        self, pre: Float[Tensor, "batch pos d_sae"], positions: Int[Tensor, "batch pos"], training: bool
    ) -> Float[Tensor, "batch pos d_sae"]:
        return self.weigh(pre, self.of_rows(self.rows(positions)).to(pre.dtype), training)

    def weigh(self, pre: Float[Tensor, "*any"], M: Float[Tensor, "*any"], training: bool) -> Float[Tensor, "*any"]:
        """`relu(pre) * M`, entry by entry."""
        if training and self.cfg.masked_gradients:
            pre = torch.where(M >= 0.5, pre, pre.detach())
        return torch.relu(pre) * M

    def at(
        self, rows: Int[Tensor, "batch pos #slots"], features: Int[Tensor, "batch pos slots"]
    ) -> Float[Tensor, "batch pos slots"]:
        """M at some features of each token."""
        return self.weights()[rows, features]

    def closed(self, indices: Int[Tensor, "batch pos slots"] | None, positions: Int[Tensor, "batch pos"]) -> Tensor:
        """Where M < 0.5: at the given features of each token, or at all of them."""
        below, rows = self.weights() < 0.5, self.rows(positions)
        return below[rows] if indices is None else below[rows.unsqueeze(-1), indices]


class FixedMask(PositionMask):
    """A mask that never changes; saved with the weights because it may be random."""

    mask: Tensor

    def __init__(self, cfg: PositionMaskSpec, mask: Float[Tensor, "context d_sae"]) -> None:
        super().__init__(cfg)
        self.register_buffer("mask", mask)

    def weights(self) -> Float[Tensor, "context d_sae"]:
        return self.mask


class _LearnedMask(PositionMask):
    def __init__(self, cfg: LearnedMaskSpec, logits: Float[Tensor, "context d_sae"]) -> None:
        super().__init__(cfg)
        self.logits = nn.Parameter(logits)
        self.lr_multiplier, self.lr_schedule = cfg.lr_multiplier, cfg.lr_schedule


class SoftPositionMask(_LearnedMask):
    """Sigmoid of the logits."""

    def weights(self) -> Float[Tensor, "context d_sae"]:
        return torch.sigmoid(self.logits)

    def at(
        self, rows: Int[Tensor, "batch pos #slots"], features: Int[Tensor, "batch pos slots"]
    ) -> Float[Tensor, "batch pos slots"]:
        return torch.sigmoid(some_entries(self.logits, rows, features))

    @torch.no_grad()
    def constant(self) -> Float[Tensor, "context d_sae"]:
        return sigmoid(self.logits)

    def of_rows(self, rows: Int[Tensor, "*n"]) -> Float[Tensor, "*n d_sae"]:
        # A token of a stream needs one row of many.
        few = rows.numel() < len(self.logits)
        return torch.sigmoid(self.logits[rows]) if few else self.weights()[rows]


class ImportancePositionMask(_LearnedMask):
    """Softmax over positions, times their number."""

    def weights(self) -> Float[Tensor, "context d_sae"]:
        return torch.softmax(self.logits, dim=0) * self.logits.shape[0]
