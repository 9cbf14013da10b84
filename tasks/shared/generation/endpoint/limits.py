"""How fast an endpoint may be asked, for how much, and how often in vain."""

import asyncio
import time

from tasks.shared.config.endpoint import EndpointAccess, EndpointConfig
from tasks.shared.generation.endpoint.completion import Usage

BURST_S = 1.0
FEWEST_JUDGED = 20  # the share of failures is taken of at least so many


class TokenBucket:
    """Fills at a rate and holds what comes in a second; a charge beyond it is waited for by whoever is next."""

    def __init__(self, per_minute: float) -> None:
        """`per_minute`: 0 is no limit."""
        self._seconds_each = 60.0 / per_minute if per_minute else 0.0
        self._free_at = 0.0  # on the monotonic clock: when what was taken so far has been filled in again

    async def take(self, amount: float) -> None:
        """Wait until the bucket is not overdrawn, and take from it."""
        now = time.monotonic()
        start = max(self._free_at, now - BURST_S)
        self._free_at = start + amount * self._seconds_each
        await asyncio.sleep(start - now)

    def charge(self, amount: float) -> None:
        """Take without waiting: what a response turned out to cost."""
        self._free_at = max(self._free_at, time.monotonic() - BURST_S) + amount * self._seconds_each

    def pause(self, seconds: float) -> None:
        """Nobody takes anything for so long: the endpoint asked for it."""
        self._free_at = max(self._free_at, time.monotonic() + seconds)


class FailureShare:
    """Stops what goes on failing."""

    def __init__(self, config: EndpointConfig, asker: str, num_due: int = FEWEST_JUDGED) -> None:
        """`asker`: `config`'s name in the section `synthesize`."""
        self._config = config
        self._asker = asker
        self._fewest = min(FEWEST_JUDGED, num_due)
        self.num_finished = self._num_failed = 0

    def count(self, said: str = "") -> None:
        """One more is finished; `said`: by an endpoint that gave nothing usable. ValueError past the share."""
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
    """Tokens and money that may be spent. A request sets aside the most it can cost, so the budget is never passed."""

    def __init__(self, config: EndpointAccess, spent: Usage) -> None:
        """`spent`: by processes of this run that were killed."""
        self._config = config
        self.spent = spent
        self._set_aside = Usage()
        self._settled = asyncio.Condition()

    @property
    def money(self) -> float:
        """What was spent, in the currency of the prices."""
        return self._money(self.spent)

    async def reserve(self, most: Usage) -> None:
        """Set aside what a request can cost at most, waiting for others to settle. Raises BudgetSpent."""
        async with self._settled:
            while not self._fits(self.spent + self._set_aside + most):
                if self._set_aside == Usage():
                    raise BudgetSpent
                await self._settled.wait()
            self._set_aside += most

    async def settle(self, most: Usage, used: Usage) -> None:
        """Give back what was set aside; `used` has been spent."""
        async with self._settled:
            self._set_aside += Usage(-most.prompt_tokens, -most.completion_tokens)
            self.spent += used
            self._settled.notify_all()

    def _fits(self, usage: Usage) -> bool:
        return usage.tokens <= self._config.most_tokens and self._money(usage) <= self._config.most_money

    def _money(self, usage: Usage) -> float:
        return usage.money(self._config.prompt_price, self._config.completion_price)
