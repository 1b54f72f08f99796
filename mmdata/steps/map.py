"""Run a function of the user's over each record."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator

from mmdata.errors import SpecError
from mmdata.registry import plugin_function, register
from mmdata.spec import StepSpec
from mmdata.steps._columns import with_columns
from mmdata.types import Drop, Sample

if TYPE_CHECKING:
    from mmdata.decode.work import Work


@register("step", "map")
class Map(StepSpec):
    """Call a function of a module named under `plugins:` for each record: `function(sample, **arguments)`. It answers
    the sample, changed with `dataclasses.replace`; a `Drop`; or a dict, whose values become columns. It must be a pure
    function of its arguments, for a build may run it again, elsewhere and in any order."""

    kind: Literal["map"] = "map"
    function: str
    """`module.function`: a module of `plugins:` by its dotted name, or the name of its file without `.py`."""
    arguments: dict[str, Any] = Field({})
    """Further arguments, by name."""

    @field_validator("function")
    @classmethod
    def _found(cls, value: str) -> str:
        try:
            plugin_function(value)
        except SpecError as error:
            raise ValueError(str(error)) from error
        return value

    def apply(self, sample: Sample, work: Work) -> Sample | Drop:
        function: Callable[..., Sample | Drop | dict[str, Any]] = plugin_function(self.function)
        answer = function(sample, **self.arguments)
        return with_columns(sample, answer) if isinstance(answer, dict) else answer
