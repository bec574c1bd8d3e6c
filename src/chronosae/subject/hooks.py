"""Read, edit, skip: what a forward pass of the subject can be made to do, by PyTorch hooks that always come off again.

Decoder layers and attention return a tensor or a tuple that starts with one, depending on family and transformers
version; everything here accepts both.

And GPT-2's GELU at the price of other activation functions: transformers spells its tanh form out in eight passes over
the widest tensor of the model, a fifth of the time of a forward pass on a CPU. Here it is one pass, or none: oneDNN
applies it while the product before it is in registers.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from chronosae.subject.architectures import Anatomy
from chronosae.subject.sites import Site

Edit = Callable[[Tensor], Tensor]


class StopForward(Exception):
    """Raised inside the forward pass once nothing after this point is wanted; never leaves this room."""


@contextmanager
def reading(anatomy: Anatomy, sites: Sequence[Site]) -> Iterator[dict[Site, Tensor]]:
    """Fill the yielded mapping during a forward pass, which ends with `StopForward` at the last of the sites."""
    acts: dict[Site, Tensor] = {}
    last = max(sites, key=lambda site: site.order)

    def reader(site: Site) -> Edit:
        def read(value: Tensor) -> Tensor:
            acts[site] = value
            if site == last:
                raise StopForward
            return value

        return read

    with ExitStack() as stack:
        for site in sites:
            stack.callback(_observe(anatomy, site, reader(site)).remove)
        yield acts


@contextmanager
def editing(anatomy: Anatomy, edits: Mapping[Site, Edit]) -> Iterator[None]:
    """Replace the value at each site by what its function makes of it, in the order of the forward pass."""
    with ExitStack() as stack:
        for site in sorted(edits, key=lambda site: site.order):
            for handle in _replace(anatomy, site, _checked(site, edits[site])):
                stack.callback(handle.remove)
        yield


@contextmanager
def skipping(layers: Sequence[nn.Module], tuples: bool) -> Iterator[None]:
    """Let the given decoder layers hand on their input; `tuples` says how this model's layers wrap their output."""

    def hand_on(hidden_states: Tensor, *_args: Any, **_kwargs: Any) -> Tensor | tuple[Tensor]:
        return (hidden_states,) if tuples else hidden_states

    # Replaced on the instance, where accelerate keeps its own wrapper too: skipped weights aren't moved either.
    before = [layer.__dict__.get("forward") for layer in layers]
    for layer in layers:
        layer.forward = hand_on
    try:
        yield
    finally:
        for layer, forward in zip(layers, before, strict=True):
            if forward is None:
                del layer.forward
            else:
                layer.forward = forward


@contextmanager
def watching_output_type(layer: nn.Module) -> Iterator[list[type]]:
    """Note the type of what `layer` returns, then stop the forward pass."""
    types: list[type] = []

    def note(_module: nn.Module, _args: Any, output: Any) -> None:
        types.append(type(output))
        raise StopForward

    handle = layer.register_forward_hook(note)
    try:
        yield types
    finally:
        handle.remove()


def _observe(anatomy: Anatomy, site: Site, read: Edit) -> RemovableHandle:
    match site.kind:
        case "resid_pre":
            return _on_input(anatomy.layers[site.layer], read)
        case "attn_out":
            return _on_output(anatomy.attn_out(site.layer), read)
        case "resid_mid":
            return _on_input(anatomy.mlp_norm(site.layer), read)
        case "mlp_out":
            return _on_output(anatomy.mlp_out(site.layer), read)
        case "resid_post":
            return _on_output(anatomy.layers[site.layer], read)


def _replace(anatomy: Anatomy, site: Site, edit: Edit) -> list[RemovableHandle]:
    if site.kind != "resid_mid":
        return [_observe(anatomy, site, edit)]
    # resid_mid is a sum that no module holds: the layer adds its input x to the attention branch a. Hand the layer
    # zeros, attention's norm the true x, and let the branch return edit(x + a): 0 + edit(x + a) is exact.
    x: list[Tensor] = []

    def set_aside(hidden: Tensor) -> Tensor:
        x[:] = [hidden]
        return torch.zeros_like(hidden)

    def edited_sum(branch: Tensor) -> Tensor:
        return edit(x.pop().to(branch.device) + branch)

    return [
        _on_input(anatomy.layers[site.layer], set_aside),
        _on_input(anatomy.attn_norm(site.layer), lambda _zeros: x[0]),
        _on_output(anatomy.attn_out(site.layer), edited_sum),
    ]


def _checked(site: Site, edit: Edit) -> Edit:
    def apply(value: Tensor) -> Tensor:
        new = edit(value)
        if new.shape != value.shape:
            raise ValueError(f"the edit at {site} returned shape {tuple(new.shape)}, expected {tuple(value.shape)}")
        return new.to(device=value.device, dtype=value.dtype)

    return apply


def _on_input(module: nn.Module, change: Edit) -> RemovableHandle:
    def hook(
        _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if args:
            return (change(args[0]), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _on_output(module: nn.Module, change: Edit) -> RemovableHandle:
    def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    return module.register_forward_hook(hook)


class ConvGelu(Conv1D):
    """GPT-2's up-projection with the GELU that follows it; weights and their names are those of `Conv1D`."""

    def forward(self, x: Tensor) -> Tensor:
        """gelu(x weight + bias) by the tanh form."""
        if torch.is_grad_enabled() or not _fusible(x):
            return F.gelu(super().forward(x), approximate="tanh")
        return torch.ops.mkldnn._linear_pointwise(x, self.weight.t(), self.bias, "gelu", [], "tanh")


def with_fused_gelu(model: nn.Module) -> Any:
    """The model, with every GELU of this kind replaced; what it computes differs by rounding only."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is not NewGELUActivation:
                continue
            up = getattr(parent, "c_fc", None)
            if name == "act" and type(up) is Conv1D:
                up.__class__ = ConvGelu
                parent.act = nn.Identity()
            else:
                setattr(parent, name, nn.GELU(approximate="tanh"))
    return model


def _fusible(x: Tensor) -> bool:
    """Whether oneDNN has the product with the activation function for `x`."""
    if x.device.type != "cpu" or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    if x.dtype == torch.bfloat16:
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return x.dtype == torch.float32
