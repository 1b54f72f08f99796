"""Tasks drawn by how badly they are learned: weights of the mixture, through the stream's control log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mmdata.errors import RunError, SpecError
from mmdata.stream.control import ControlLog, from_losses
from mmdata.stream.schedule import exact, scheduled
from mmdata.types import World
from mmtrain.balance.spec import SamplingSpec
from mmtrain.balance.weights import Balance, smoothed
from mmtrain.distributed import first

if TYPE_CHECKING:
    from mmtrain.job import Job


class Sampling(Balance):
    """See `SamplingSpec`. An entry is written after every so many steps and takes effect at a block that follows from
    the step alone; a run that comes by again after a kill finds it there and keeps it."""

    remedy = "tasks are datasets here: set data.task_field to a field that samples do not have"

    def __init__(self, spec: SamplingSpec, job: Job) -> None:
        data = job.spec.data
        if not data.weighted:
            raise SpecError("balance: sampling changes the weights of data.datasets; name several, each with a weight")
        super().__init__([source.title for source in data.sources])
        self.spec = spec
        self.base = {source.title: float(source.weight or 0) for source in data.sources}
        self.losses: dict[str, float] = {}
        self._job = job

    @property
    def weighs(self) -> bool:
        return False

    def weights(self) -> dict[str, float]:
        """Shares of the mixture in the block that the run is in: as its datasets and schedule have it, or the log."""
        data, block = self._job.spec.data, self._job.loader.position.block
        now = scheduled(data.sources, data.schedule, block * data.block_samples)
        for entry in self._log().entries:
            if entry.block <= block:
                now |= {name: exact(weight) for name, weight in entry.weights.items()}
        total = sum(now.values())
        return {name: float(each / total) for name, each in now.items()}

    def learn(self, losses: Mapping[str, float], world: World) -> None:
        self.losses = smoothed(self.losses, losses, self.spec.smoothing)

    def settle(self, step: int) -> None:
        if (step + 1) % self.spec.every or not self.losses:
            return
        first(lambda: self._write(step + 1), self._job.world)

    def _write(self, steps: int) -> None:
        log, note = self._log(), f"after step {steps}"
        if any(entry.note == note for entry in log.entries):
            return
        block = self._job.loader.position.block + self.spec.ahead
        entry = from_losses(block, self.losses, self.base, temperature=self.spec.temperature, note=note)
        try:
            log.append(entry)
        except SpecError as error:
            raise RunError(
                f"{error}: data.block_samples is small beside what is read ahead; raise it, or balance.ahead"
            ) from error

    def _log(self) -> ControlLog:
        log = self._job.loader.dataset.control
        if log is None:
            raise RunError("balance: sampling needs the run's folder, and its stream has none")
        return log

    def state_dict(self) -> dict[str, Any]:
        return {"losses": dict(self.losses)}

    def load_state_dict(self, saved: dict[str, Any], /) -> None:
        self.losses = {task: float(loss) for task, loss in saved["losses"].items()}
