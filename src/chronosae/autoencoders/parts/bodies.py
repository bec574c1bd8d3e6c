"""Bodies: how vectors become pre-activations and codes become vectors. Each names the class that does it."""

from typing import TYPE_CHECKING, Any, Literal

from chronosae.autoencoders.parts.base import PartSpec, Registry

if TYPE_CHECKING:
    from chronosae.autoencoders.autoencoder import Autoencoder

BODIES: Registry["BodySpec"] = Registry("body")


class BodySpec(PartSpec):
    """Base of the bodies."""

    @property
    def causal(self) -> bool:
        """No code depends on a later token."""
        return True

    @property
    def receptive_field(self) -> int | None:
        """Tokens that a code can depend on, its own included; None: all earlier ones."""
        return 1

    def check(self, spec: Any) -> None:
        """ValueError when the rest of the spec can't go with this body."""

    def autoencoder(self) -> "type[Autoencoder]":
        """The class that computes it."""
        raise NotImplementedError


@BODIES.add
class Linear(BodySpec):
    """One linear encoder, one linear decoder."""

    kind: Literal["linear"] = "linear"

    def autoencoder(self) -> "type[Autoencoder]":
        from chronosae.autoencoders.autoencoder import Autoencoder

        return Autoencoder
