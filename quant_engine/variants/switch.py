"""Modules that stand where a layer of the model was, and answer for it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from quant_engine.model.modules import StandIn


class Switch(StandIn):
    """Answers as a float layer or as one of its other forms.

    Attributes:
        float_layer: The layer itself.
        on_read: Called with the switch when the model reads a tensor of the layer, such as its
            weight, instead of calling the layer. If None, nothing is called.
    """

    def __init__(self, float_layer: nn.Module, forms: Mapping[str, nn.Module]) -> None:
        """Start as the float layer."""
        super().__init__()
        self.float_layer = float_layer
        self.on_read: Callable[[nn.Module], None] | None = None
        self._keys = {name: f"form_{index}" for index, name in enumerate(forms)}
        self._chosen = "float_layer"
        for name, form in forms.items():
            self.add_module(self._keys[name], form)

    def choose(self, form: str | None) -> None:
        """Answer as this form from now on; as the float layer for None."""
        self._chosen = "float_layer" if form is None else self._keys[form]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the chosen form."""
        return self._modules[self._chosen](*args, **kwargs)  # type: ignore[misc]

    def __getattr__(self, name: str) -> Any:
        """Answer for the chosen form, or for the float layer where only that has an answer."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if "_modules" not in vars(self):  # while it is being copied or unpickled
                raise
        try:
            value = getattr(self._modules[self._chosen], name)
        except AttributeError:
            value = getattr(self._modules["float_layer"], name)
        if isinstance(value, Tensor) and self.on_read is not None:
            self.on_read(self)
        return value
