"""All matrices of an adapter in one tensor, their gradients in another: one step, one clip, one cast for all of them.

The parameters that peft made stay, as views; their names, their shapes and what a checkpoint holds of them too.
Shapes: all numbers of an adapter end to end.
"""

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn


class AdapterBuffer:
    """The trained parameters of a trial as one parameter."""

    def __init__(self, parameters: Iterable[nn.Parameter], compute_dtype: torch.dtype) -> None:
        self._parts = list(parameters)
        first = self._parts[0]
        total = sum(part.numel() for part in self._parts)
        self.whole = nn.Parameter(torch.empty(total, dtype=first.dtype, device=first.device))
        self.whole.grad = torch.zeros_like(self.whole)
        self._half = None if compute_dtype == first.dtype else torch.empty_like(self.whole, dtype=compute_dtype)
        self._half_views: dict[nn.Parameter, torch.Tensor] = {}
        with torch.no_grad():
            for part, place in zip(self._parts, self._places(), strict=True):
                view = self.whole.detach()[place].view(part.shape)
                part.data = view.copy_(part.data)
                part.grad = self.whole.grad[place].view(part.shape)
                if self._half is not None:
                    self._half_views[part] = self._half[place].view(part.shape)
        self.refresh()

    def refresh(self) -> None:
        """Make the copies in half precision again, after the values have changed."""
        if self._half is not None:
            self._half.copy_(self.whole.detach())

    def copies(self, parameter: nn.Parameter, dtype: torch.dtype) -> torch.Tensor:
        """Return the values of a parameter in a dtype: the copy that was made after the last step where there is one.

        `Copies` of the decoder layers.
        """
        view = self._half_views.get(parameter)
        return view if view is not None and view.dtype == dtype else parameter.detach().to(dtype)

    def after_step(self) -> None:
        """Set all gradients to zero, and make the copies of the new values."""
        assert self.whole.grad is not None
        self.whole.grad.zero_()
        self.refresh()

    def release(self) -> None:
        """Give the parameters values of their own again, and take their gradients."""
        for part in self._parts:
            part.data, part.grad = part.data.clone(), None

    def state_of_parts(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """Return an optimizer's state as one over the parts has it, which is what checkpoints hold."""
        state = optimizer.state_dict()
        if not self._is_over_whole(optimizer):
            return state
        whole = state["state"].get(0, {})
        parts = {i: {name: value.clone() if value.dim() == 0 else value[place].view(part.shape)
                     for name, value in whole.items()}
                 for i, (part, place) in enumerate(zip(self._parts, self._places(), strict=True)) if whole}
        groups = [{**group, "params": list(range(len(self._parts)))} for group in state["param_groups"]]
        return {"state": parts, "param_groups": groups}

    def load_state_of_parts(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Give an optimizer the state of one over the parts; how it computes stays as it is."""
        if not self._is_over_whole(optimizer):
            optimizer.load_state_dict(dict(state))
            return
        parts = [state["state"][i] for i in sorted(state["state"])]
        whole = {name: value.clone() if value.dim() == 0 else torch.cat([part[name].reshape(-1) for part in parts])
                 for name, value in parts[0].items()} if parts else {}
        groups = [{**group, "params": [0], "fused": optimizer.param_groups[0]["fused"]}
                  for group in state["param_groups"]]
        optimizer.load_state_dict({"state": {0: whole} if whole else {}, "param_groups": groups})

    def _is_over_whole(self, optimizer: torch.optim.Optimizer) -> bool:
        return optimizer.param_groups[0]["params"][0] is self.whole

    def _places(self) -> list[slice]:
        ends = itertools.accumulate((part.numel() for part in self._parts), initial=0)
        return [slice(start, stop) for start, stop in itertools.pairwise(ends)]
