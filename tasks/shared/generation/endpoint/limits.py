"""Limits on the rate of requests to an endpoint, on their cost, and on the share that fails."""

import asyncio
import time

from tasks.shared.config.endpoint import EndpointAccess, EndpointConfig
from tasks.shared.generation.endpoint.completion import Usage

BURST_S = 1.0
FEWEST_JUDGED = 20  # least denominator of the share of failures


class TokenBucket:
    """A token bucket that holds one second's rate. After an overdraft, the next request waits."""

    def __init__(self, per_minute: float) -> None:
        """`per_minute`: 0 is no limit."""
        self._seconds_each = 60.0 / per_minute if per_minute else 0.0
        self._free_at = 0.0  # on the monotonic clock: when the bucket will be full again

    async def take(self, amount: float) -> None:
        """Wait until the bucket is not overdrawn, and take from it."""
        now = time.monotonic()
        start = max(self._free_at, now - BURST_S)
        self._free_at = start + amount * self._seconds_each
        await asyncio.sleep(start - now)

    def charge(self, amount: float) -> None:
        """Take without waiting, for the actual cost of a response."""
        self._free_at = max(self._free_at, time.monotonic() - BURST_S) + amount * self._seconds_each

    def pause(self, seconds: float) -> None:
        """Let nobody take anything for so long, because the endpoint asked for it."""
        self._free_at = max(self._free_at, time.monotonic() + seconds)


class FailureShare:
    """Stops a stage whose endpoint fails too often."""

    def __init__(self, config: EndpointConfig, asker: str, num_due: int = FEWEST_JUDGED) -> None:
        """`asker`: the name of `config` in the section `synthesize`."""
        self._config = config
        self._asker = asker
        self._fewest = min(FEWEST_JUDGED, num_due)
        self.num_finished = self._num_failed = 0

    def count(self, said: str = "") -> None:
        """Count a finished trace; `said`: the endpoint's text if it was not usable. ValueError past the share."""
        self.num_finished += 1
        self._num_failed += bool(said)
        if said and self._num_failed > self._config.max_failure_share * max(self.num_finished, self._fewest):
            raise ValueError(
                f"{self._config.base_url} gave nothing usable for {self._num_failed} of {self.num_finished} traces, "
                f"lately: {said}; see to it and run again (answers are kept), or raise "
                f"synthesize.{self._asker}.max_failure_share"
            )


class BudgetSpent(Exception):
    """The next request might cost more than is left."""


class Budget:
    """A budget of tokens and money. A request reserves the most that it can cost, so the budget is never exceeded."""

    def __init__(self, config: EndpointAccess, spent: Usage) -> None:
        """`spent`: by processes of this run that were killed."""
        self._config = config
        self.spent = spent
        self._reserved = Usage()
        self._settled = asyncio.Condition()

    @property
    def money(self) -> float:
        """The money spent, in the currency of the prices."""
        return self._money(self.spent)

    async def reserve(self, most: Usage) -> None:
        """Reserve the most that a request can cost; wait for others to settle if needed. Raises BudgetSpent."""
        async with self._settled:
            while not self._fits(self.spent + self._reserved + most):
                if self._reserved == Usage():
                    raise BudgetSpent
                await self._settled.wait()
            self._reserved += most

    async def settle(self, most: Usage, used: Usage) -> None:
        """Release a reservation; `used` was spent."""
        async with self._settled:
            self._reserved += Usage(-most.prompt_tokens, -most.completion_tokens)
            self.spent += used
            self._settled.notify_all()

    def _fits(self, usage: Usage) -> bool:
        return usage.tokens <= self._config.most_tokens and self._money(usage) <= self._config.most_money

    def _money(self, usage: Usage) -> float:
        return usage.money(self._config.prompt_price, self._config.completion_price)
