"""What every tracker shares: tensors that are saved, moved and measured, and are never Parameters."""

from collections.abc import Mapping
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

State = TypeVar("State", bound="TensorState")


class TensorState:
    """A plain object whose whole state are the tensors named in `_tensors` and the trackers in `_parts`.

    `_parts` holds, by the attribute's name, the name that a part is saved under.

    Floating statistics keep at least float32: in bfloat16 the small increments of a running mean or a count round away.
    """

    _tensors: ClassVar[tuple[str, ...]] = ()
    _parts: ClassVar[Mapping[str, str]] = {}

    def state_dict(self) -> dict[str, Tensor]:
        """The tensors themselves (not copies), by name; those of a part as `part.name`."""
        state = {name: getattr(self, name) for name in self._tensors}
        for part, saved in self._parts.items():
            state |= {f"{saved}.{name}": tensor for name, tensor in getattr(self, part).state_dict().items()}
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Copy saved tensors in.

        Raises:
            ValueError: a name is missing or unknown, or a shape differs.
        """
        mine = self.state_dict()
        if set(state) != set(mine):
            raise ValueError(f"{type(self).__name__} holds {sorted(mine)}; got {sorted(state)}")
        for name, tensor in mine.items():
            if tensor.shape != state[name].shape:
                raise ValueError(f"{type(self).__name__}.{name} is {[*tensor.shape]}; got {[*state[name].shape]}")
            tensor.copy_(state[name])

    def to(self: State, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> State:
        """Move every tensor in place; `dtype` applies to floating ones, never below float32."""
        for name in self._tensors:
            setattr(self, name, _moved(getattr(self, name), device, dtype))
        for part in self._parts:
            getattr(self, part).to(device, dtype)
        return self

    def nbytes(self) -> int:
        """Bytes held between updates."""
        return sum(tensor.nbytes for tensor in self.state_dict().values())


def _moved(tensor: Tensor, device: torch.device | str | None, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or not tensor.is_floating_point():
        return tensor.to(device=device)
    return tensor.to(device=device, dtype=torch.promote_types(dtype, torch.float32))
