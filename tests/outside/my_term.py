"""A term of your own: from a token to the next, evidence should change little."""

from typing import Literal

from torch import Tensor

from chronosae.parts import TERMS, StepContext, Term, masked_mean


@TERMS.add
class Slowness(Term):
    """Mean squared change of the pre-activations from a token to the next of its document."""

    kind: Literal["slowness"] = "slowness"

    def value(self, step: StepContext) -> Tensor:
        layout, docs = step.documents("slowness term")
        return slowness(step.forward.pre, layout.mask, docs)


def slowness(pre: Tensor, mask: Tensor, docs: Tensor) -> Tensor:
    """`mean_t mean_f (pre_{t+1,f} - pre_tf)^2` over pairs of unmasked neighbours in one document."""
    pairs = mask[:, 1:] & mask[:, :-1] & (docs[:, 1:] == docs[:, :-1])
    return masked_mean((pre[:, 1:] - pre[:, :-1]).square().mean(-1), pairs)
