"""Position masks: which features may fire where in the context (DESIGN 5.D)."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from chronosae.autoencoders.parts.position_masks import POSITION_MASKS
from chronosae.autoencoders.presets.base import PartsOptions, Positive, Preset, assemble
from chronosae.autoencoders.spec import Normalisation, Spec


class PositionalOptions(PartsOptions):
    """Options of `positional`; `position_mask` sets every detail, the others its usual ones."""

    replaces: ClassVar[dict[str, tuple[str, ...]]] = {
        **PartsOptions.replaces,
        "position_mask": (
            "mask",
            "context",
            "beyond",
            "masked_gradients",
            "initial",
            "mask_lr_multiplier",
            "mask_lr_schedule",
        ),
    }

    mask: Literal["soft", "importance", "hard", "slices", "groups"] = "soft"
    """Kind of mask."""
    context: Positive = 128
    """Positions that the mask knows."""
    beyond: Literal["error", "last", "wrap"] = "error"
    """What later positions get."""
    masked_gradients: bool = False
    """Encoder, decoder and bias learn only where the mask is at least 0.5."""
    initial: tuple[float, float] | None = None
    """`soft`: range of the initial mask, [0.3, 0.7] when absent (the original logs also used [0.1, 0.2])."""
    mask_lr_multiplier: Annotated[float, Field(gt=0)] | None = None
    """`soft` and `importance`: learning rate of the mask relative to the run's; 10 and 12 when absent."""
    mask_lr_schedule: Literal["run", "constant", "cosine"] | None = None
    """`soft` and `importance`: schedule of that rate, the run's when absent."""

    @model_validator(mode="after")
    def _mask_fits(self) -> "PositionalOptions":
        learned = {"mask_lr_multiplier": self.mask_lr_multiplier, "mask_lr_schedule": self.mask_lr_schedule}
        given = [name for name, value in learned.items() if value is not None]
        if given and self.mask not in ("soft", "importance"):
            raise ValueError(f"{given[0]} is for masks that learn (soft, importance); a {self.mask} mask is fixed")
        if self.initial is not None and self.mask != "soft":
            raise ValueError(f"initial is for the soft mask, this one is {self.mask}")
        self.details()
        return self

    def details(self) -> dict[str, object]:
        """The mask as a mapping, checked."""
        given = {
            "initial": self.initial,
            "lr_multiplier": self.mask_lr_multiplier,
            "lr_schedule": self.mask_lr_schedule,
        }
        details = {
            "kind": self.mask,
            "context": self.context,
            "beyond": self.beyond,
            "masked_gradients": self.masked_gradients,
            **{name: value for name, value in given.items() if value is not None},
        }
        POSITION_MASKS.read(details)
        return details


def _make(options: PositionalOptions, d_in: int, normalisation: Normalisation) -> Spec:
    mask = options.position_mask or POSITION_MASKS.read(options.details())
    return assemble("positional", options, d_in, normalisation, position_mask=mask)


PRESET = Preset(
    name="positional",
    summary="TopK under a mask of positions: soft, importance, hard, slices or groups",
    paper="this project",
    options=PositionalOptions,
    make=_make,
)
