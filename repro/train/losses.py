"""The training loss on its way to the end: what every network's mean loss was since the last point."""

from collections.abc import Sequence

import torch
from torch import Tensor

from repro.train.job import Job

POINTS = 300  # of a training from its first step to its last one


class Losses:
    """A ``watch`` of `repro.train.loop.train`: mean losses every so many steps, kept on the device until `take`.

    Arguments:
        jobs: those of the training. Points lie at multiples of ``every``, and at each job's last step; that makes about
            `POINTS` of them.

    The mean is over the steps since the last point, or since the training was taken up. Steps that are trained again,
    because memory ran out, count once.
    """

    def __init__(self, jobs: Sequence[Job]):
        self.stops = [job.stop for job in jobs]
        self.every = max(1, -(-(max(self.stops) - min(job.start for job in jobs)) // POINTS))
        self.sums: Tensor | None = None  # of the losses since the last point, float64 [jobs]
        self.index: dict[tuple[int, ...], Tensor] = {}
        self.counts, self.reached = [0] * len(jobs), [-1] * len(jobs)
        self.points: list[tuple[int, list[int], Tensor, list[int]]] = []  # step, job numbers, sums, counts

    def __call__(self, step: int, rows: list[int], losses: Tensor) -> None:
        """Losses [K, R] of the jobs ``rows`` at the steps from ``step`` on. They may be overwritten afterwards."""
        if self.sums is None:
            self.sums = torch.zeros(len(self.stops), dtype=torch.float64, device=losses.device)
        if any(self.reached[j] > step for j in rows):
            self._forget(step, rows)
        end = step + len(losses)
        edges = [*range(step - step % self.every + self.every, end, self.every), end]
        for begin, edge in zip([step, *edges], edges):
            self.sums[self._at(rows)] += losses[begin - step : edge - step].sum(0, dtype=torch.float64)
            for j in rows:
                self.counts[j] += edge - begin
            if whole := [j for j in rows if edge % self.every == 0 or edge == self.stops[j]]:
                self.points.append((edge, whole, self.sums[self._at(whole)], [self.counts[j] for j in whole]))
                self._begin(whole)
        for j in rows:
            self.reached[j] = end

    def _forget(self, step: int, rows: list[int]) -> None:
        """The jobs go back to a step, which is not before the last `take`."""
        self.points = [point for point in self.points if point[0] <= step or not set(point[1]) & set(rows)]
        self._begin(rows)

    def _begin(self, rows: list[int]) -> None:
        self.sums[self._at(rows)] = 0.0
        for j in rows:
            self.counts[j] = 0

    def _at(self, rows: list[int]) -> Tensor:
        """The rows as an index on the device: a list would be sent, and waited for, at every step."""
        if (key := tuple(rows)) not in self.index:
            self.index[key] = torch.tensor(rows, device=self.sums.device)
        return self.index[key]

    def take(self) -> list[tuple[int, int, float]]:
        """Points that are new: (job number, steps done, mean loss in nats)."""
        points, self.points = self.points, []
        if not points:
            return []
        sums = iter(torch.cat([sums for _, _, sums, _ in points]).tolist())  # the device is waited for here alone
        return [(j, step, next(sums) / n) for step, rows, _, counts in points for j, n in zip(rows, counts)]
