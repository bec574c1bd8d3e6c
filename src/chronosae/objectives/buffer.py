"""The last few codes of every sequence, in memory that is allocated once."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from chronosae.autoencoders import SparseCodes
from chronosae.config import UserError
from chronosae.objectives.tracker import TensorState

LEVELS = 255


class CircularFeatureBuffer(TensorState):
    """The last `window` codes of each of `batch_size` sequences, kept apart from one another.

    With `eight_bit` a value v of a token whose largest value is a is stored as round(255 v / a) in a uint8 with one
    float32 scale a / 255 per token: |error| <= a / 510, except that a value below a / 510 is stored as one level, so
    that a feature that fired still fires (error < a / 255). Codes must then be non-negative.

    Args:
        batch_size: sequences.
        window: positions kept of each (at least 1).
        slots: active features a token has at most.
        d_sae: number of features.
        eight_bit: store values in 8 bits.
    """

    _tensors = ("indices", "values", "scale", "filled", "head")

    def __init__(
        self,
        batch_size: int,
        window: int,
        slots: int,
        d_sae: int,
        *,
        eight_bit: bool = False,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if min(batch_size, window, slots, d_sae) < 1:
            raise UserError(
                f"a feature buffer needs batch_size, window, slots and d_sae of at least 1; got {batch_size},"
                f" {window}, {slots}, {d_sae}"
            )
        self.window_size, self.d_sae, self.eight_bit = window, d_sae, eight_bit
        shape = (batch_size, window, slots)
        self.indices = torch.zeros(shape, dtype=torch.int32, device=device)
        self.values = torch.zeros(shape, dtype=torch.uint8 if eight_bit else dtype, device=device)
        self.scale = torch.ones(batch_size, window, device=device)
        self.filled = torch.zeros(batch_size, dtype=torch.int64, device=device)  # positions each sequence really has
        self.head = torch.zeros((), dtype=torch.int64, device=device)  # where the next position goes

    @torch.no_grad()
    def push(self, codes: SparseCodes) -> None:
        """Append the codes `[batch, n, slots]` of the next n >= 0 positions; only the last `window` are kept.

        Raises:
            ValueError: another batch size, more slots or another d_sae than the buffer's.
            UserError: negative codes in an 8-bit buffer.
        """
        self._check(codes)
        n, used = codes.values.shape[1], codes.values.shape[2]
        kept = min(n, self.window_size)
        where = (self.head + torch.arange(n - kept, n, device=self.indices.device)) % self.window_size
        values, scale = self._pack(codes.values[:, n - kept :])
        self.indices[:, where] = 0
        self.values[:, where] = 0
        self.indices[:, where, :used] = codes.indices[:, n - kept :].to(self.indices.dtype)
        self.values[:, where, :used] = values
        self.scale[:, where] = scale
        self.head.add_(n).remainder_(self.window_size)
        self.filled.add_(n).clamp_(max=self.window_size)

    def window(self) -> SparseCodes:
        """Codes `[batch, window, slots]`, oldest first; positions before a sequence's start have zero codes."""
        order = self._order()
        values = self.values[:, order]
        if self.eight_bit:
            values = values * self.scale[:, order, None]
        valid = self.valid()[..., None]
        return SparseCodes(
            values=values * valid, indices=self.indices[:, order].long() * valid, n_features=self.d_sae, scale=None
        )

    def valid(self) -> Bool[Tensor, "batch window"]:
        """Which positions of `window()` a sequence really has."""
        age = torch.arange(self.window_size, 0, -1, device=self.filled.device)  # 1 for the newest, last
        return age <= self.filled[:, None]

    def reset(self, rows: Int[Tensor, " rows"] | Bool[Tensor, " batch"] | None = None) -> None:
        """Forget the given sequences (all by default), as where a new document starts."""
        self.filled[slice(None) if rows is None else rows] = 0

    def reorder(self, idx: Int[Tensor, " new"]) -> None:
        """Sequence r becomes a copy of what was sequence idx[r], as beams are reordered."""
        for name in ("indices", "values", "scale", "filled"):
            setattr(self, name, getattr(self, name)[idx])

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> "CircularFeatureBuffer":
        """Move; `dtype`, which may be a half precision one here, applies to values that are not 8-bit."""
        super().to(device)
        if dtype is not None and not self.eight_bit:
            self.values = self.values.to(dtype)
        return self

    def _order(self) -> Int[Tensor, " window"]:
        return (self.head + torch.arange(self.window_size, device=self.head.device)) % self.window_size

    def _pack(self, values: Float[Tensor, "batch n slots"]) -> tuple[Tensor, Tensor]:
        if not self.eight_bit:
            return values.to(self.values.dtype), torch.ones_like(values[..., 0], dtype=torch.float32)
        if (values < 0).any():
            raise UserError("an 8-bit feature buffer keeps non-negative codes; these have negative values")
        values = values.float()
        scale = values.amax(-1) / LEVELS
        levels = values / scale.clamp(min=torch.finfo(torch.float32).tiny)[..., None]
        return levels.round().clamp(0, LEVELS).maximum((values > 0).float()).to(torch.uint8), scale

    def _check(self, codes: SparseCodes) -> None:
        batch, _, slots = codes.values.shape
        if batch != self.indices.shape[0] or slots > self.indices.shape[2] or codes.d_sae != self.d_sae:
            raise ValueError(
                f"the buffer holds {self.indices.shape[0]} sequences, {self.indices.shape[2]} slots and d_sae"
                f" {self.d_sae}; the codes have {batch}, {slots} and {codes.d_sae}"
            )
