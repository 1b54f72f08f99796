"""What the adapters of a model may be told to be: one entry for each kind and place."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from mmdata.spec import Model

Role = Literal["attention", "mlp", "all-linear"]


class Place(Model):
    """Where an adapter goes: into one component, or to the modules whose whole alias a pattern matches."""

    component: Literal["vision", "audio", "connector", "fusion", "language", "head"] | None = None
    """The part of the model. No target outside it is ever touched."""
    match: str | None = None
    """In place of `component`: a regular expression for the whole alias of a module,
    `(vision|language)\\..*_proj`."""
    layers: tuple[int, int] | None = None
    """First and last layer of the component that is adapted, counted from 0."""
    last: int | None = Field(None, ge=1)
    """In place of `layers`: so many layers from the top."""

    @field_validator("match")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        return value

    @field_validator("layers")
    @classmethod
    def _ordered(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and not 0 <= value[0] <= value[1]:
            raise ValueError("give the first and the last layer, counted from 0, as [0, 3]")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.component is None) == (self.match is None):
            raise ValueError("give either `component` or `match`")
        if self.layers is not None and self.last is not None:
            raise ValueError("give either `layers` or `last`")
        return self


class LoraSpec(Place):
    """Low-rank changes of linear layers: W + alpha / rank * B A (LoRA, Hu et al. 2021).

    `rslora` divides by the root of the rank instead (Kalajdzievski 2023); `dora` learns the lengths of the rows apart
    from their directions (Liu et al. 2024); `qlora` puts LoRA on a component whose linear layers are kept in 4 bits
    (NF4, with their scales quantised too; Dettmers et al. 2023), and which a run saves no more than once: checkpoints
    hold `weights: trained`, and what they leave out is made from the run's model again."""

    kind: Literal["lora", "rslora", "dora", "qlora"]
    targets: Role | tuple[str, ...] = "all-linear"
    """`attention`, `mlp` or `all-linear`, or names of linear modules: [q_proj, v_proj]; always inside the component."""
    rank: int = Field(8, ge=1)
    """Rows of A. Rules (`parameters[].lora_rank`) and `adapter_ranks` overrule it for single modules."""
    alpha: float = Field(16.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    """Of the adapter's input, in training."""
    init: Literal["kaiming", "gaussian", "orthogonal", "pissa"] = "kaiming"
    """A random and B zero, uniform (`kaiming`) or normal; `orthogonal`: both, of a product that is zero; `pissa`: the
    largest singular parts of W, less what they are at the beginning (Meng et al. 2024). All change nothing at first."""

    @model_validator(mode="after")
    def _even(self) -> Self:
        if self.init == "orthogonal" and self.rank % 2:
            raise ValueError(f"rank {self.rank}: an orthogonal start needs an even one")
        return self


class IA3Spec(Place):
    """Learned factors on keys, values and the inside of MLPs (IA3, Liu et al. 2022); all 1 at first."""

    kind: Literal["ia3"]
    targets: Literal["all", "attention", "mlp"] | tuple[str, ...] = "all"
    """`attention`: the outputs of keys and values; `mlp`: the input of each MLP's last layer; or names of linear
    modules, whose outputs are scaled."""
    feedforward: tuple[str, ...] = ()
    """Those of the names in `targets` of which the inputs are scaled."""

    @model_validator(mode="after")
    def _among(self) -> Self:
        if strange := sorted(set(self.feedforward) - set(() if isinstance(self.targets, str) else self.targets)):
            raise ValueError(f"feedforward: {', '.join(strange)} must be among the names of `targets`")
        return self


class PrefixSpec(Place):
    """Learned keys and values that every sample of a row sees before its own (prefix tuning, Li & Liang 2021)."""

    kind: Literal["prefix"]
    length: int = Field(16, ge=1)
    """Keys and values per layer."""
    std: float = Field(0.02, gt=0)
    """Standard deviation of what they begin with."""


class BottleneckSpec(Place):
    """Small MLPs at the outputs of attention and MLP: down, an activation, up (Houlsby et al. 2019); `up` is zero at
    first."""

    kind: Literal["bottleneck"]
    mode: Literal["sequential", "parallel"] = "sequential"
    """`sequential` takes the output of what it adapts, `parallel` the input (He et al. 2022)."""
    targets: Literal["all", "attention", "mlp"] | tuple[str, ...] = "all"
    """`attention`, `mlp` or both, in every layer; or names of modules."""
    hidden: int = Field(64, ge=1)
    activation: Literal["relu", "gelu", "silu"] = "relu"
    scale: float = Field(1.0, gt=0)
    """Factor on what it adds; He et al. use 4 for `parallel`."""
    dropout: float = Field(0.0, ge=0, lt=1)


AdapterSpec = Annotated[LoraSpec | IA3Spec | PrefixSpec | BottleneckSpec, Field(discriminator="kind")]


def is_qlora(entry: Place) -> bool:
    """Whether it puts the weights of its component into 4 bits."""
    return isinstance(entry, LoraSpec) and entry.kind == "qlora"


def unquantised(entries: Iterable[Any]) -> tuple[Any, ...]:
    """The entries with LoRA on weights in full in place of QLoRA."""
    return tuple(each.model_copy(update={"kind": "lora"}) if is_qlora(each) else each for each in entries)


class RanksSpec(Model):
    """Give each LoRA the rank that its module's importance asks for, before the first step."""

    by: Literal["fisher"] = "fisher"
    """Importance: the trace of the empirical Fisher information of the weight, its gradient squared and summed, mean
    over `batches`."""
    budget: int = Field(..., ge=1)
    """Sum of all ranks."""
    batches: int = Field(4, ge=1)
    """Packs of the stream that are looked at, its first ones."""
    least: int = Field(1, ge=1)
    most: int = Field(64, ge=1)

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.least > self.most:
            raise ValueError(f"least {self.least} is more than most {self.most}")
        return self
