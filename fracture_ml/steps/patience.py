"""Waits for a server that is away, and goes on by itself when it is back."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from fracture_ml.core.errors import DatabaseUnavailable, StorageUnavailable

log = logging.getLogger(__name__)

_GIVE_UP_AFTER_S = 120.0
_LONGEST_WAIT_S = 15.0

Answer = TypeVar("Answer")


def patiently(do: Callable[..., Answer], *arguments: Any, **named: Any) -> Answer:
    """What `do` returns; while Postgres or the bucket is away it is done again, with waits of 1, 2, 4 ... 15 s.

    What is done may itself take long: the two minutes begin when it fails for the first time.

    Raises: StorageUnavailable, DatabaseUnavailable: the last one, once two minutes have gone by.
    """
    failed_at: list[float] = []

    def gives_up(state: RetryCallState) -> bool:
        failed_at.append(state.outcome_timestamp)
        return failed_at[-1] - failed_at[0] >= _GIVE_UP_AFTER_S

    retrying = Retrying(
        retry=retry_if_exception_type((StorageUnavailable, DatabaseUnavailable)),
        wait=wait_exponential(multiplier=1, max=_LONGEST_WAIT_S),
        stop=gives_up,
        before_sleep=_say,
        reraise=True,
    )
    return retrying(do, *arguments, **named)


def _say(state: RetryCallState) -> None:
    log.warning("%s Trying again in %.0f s.", state.outcome.exception(), state.next_action.sleep)
