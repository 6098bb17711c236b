"""Several data sets as one: every step is a whole global batch of one of them, in proportion to their weights.

    step --Mixture.at--> (which data set, its own position) --> that data set's feed

An epoch passes `weight` times over each set (1 by default, so each row once); the steps of a set lie as evenly in it as
they go. All of it is a function of the step, so a run resumes exactly and on any number of workers.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Integer

from dynfusion.store.feed import Feed, FeedBatch
from dynfusion.store.order import Order, Position


@dataclass(frozen=True)
class Mixture:
    """The orders of the data sets that a run trains on, and how often an epoch passes over each."""

    orders: tuple[Order, ...]
    weights: tuple[float, ...]

    @property
    def shares(self) -> tuple[int, ...]:
        """Steps of each data set in an epoch, at least one."""
        return tuple(
            max(1, round(weight * order.steps_per_epoch))
            for order, weight in zip(self.orders, self.weights, strict=True)
        )

    @property
    def steps_per_epoch(self) -> int:
        return sum(self.shares)

    @property
    def rows_per_group(self) -> int:
        """Rows of a contrast group, the same in every data set."""
        return self.orders[0].rows_per_group

    @property
    def num_groups(self) -> int:
        """Contrast groups of the global batch with the fewest."""
        return min(order.num_groups for order in self.orders)

    def at(self, step: int) -> tuple[int, Position]:
        """(number of the data set that step `step` of the run reads, where it stands then)."""
        within = step % self.steps_per_epoch
        source = int(self._sources[within])
        return source, self.position(source, step)

    def position(self, source: int, step: int) -> Position:
        """Where data set `source` stands before step `step` of the run."""
        epoch, within = divmod(step, self.steps_per_epoch)
        done = epoch * self.shares[source] + int(np.count_nonzero(self._sources[:within] == source))
        return Position(*divmod(done, self.orders[source].steps_per_epoch))

    def rows(self, step: int) -> tuple[int, list[int]]:
        """(number of the data set, its row numbers in ascending order) of step `step`'s global batch."""
        source, at = self.at(step)
        order = self.orders[source]
        return source, sorted(order.rows(at.epoch, at.step, range(order.layout.lanes)).tolist())

    @cached_property
    def _sources(self) -> Integer[np.ndarray, " steps"]:
        """Which data set each step of an epoch reads: the i-th of n steps of a set wants to stand at (i + 1/2) / n."""
        wanted = np.concatenate([(np.arange(share) + 0.5) / share for share in self.shares])
        source = np.repeat(np.arange(len(self.shares)), self.shares)
        return source[np.lexsort((source, wanted))]


class MixedFeed:
    """The batches of a mixture from step `start` on; each data set has a feed of its own."""

    def __init__(self, mixture: Mixture, start: int, open_feed: Callable[[int, Position], Feed]) -> None:
        self.mixture = mixture
        self.step = start
        self.feeds: list[Feed] = []
        try:
            for source in range(len(mixture.orders)):
                self.feeds.append(open_feed(source, mixture.position(source, start)))
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[FeedBatch]:
        return self

    def __next__(self) -> FeedBatch:
        source, _ = self.mixture.at(self.step)
        self.step += 1
        return next(self.feeds[source])

    def close(self) -> None:
        for feed in self.feeds:
            feed.close()
