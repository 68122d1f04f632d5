"""Waits for a server that is away, and goes on by itself when it is back."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from fracture_ml.core.errors import DatabaseUnavailable, StorageUnavailable

log = logging.getLogger(__name__)

_GIVE_UP_AFTER_S = 120.0
_LONGEST_WAIT_S = 15.0

Answer = TypeVar("Answer")


def patiently(do: Callable[..., Answer], *arguments: Any, **named: Any) -> Answer:
    """What `do` returns; while Postgres or the bucket is away it is done again, with waits of 1, 2, 4 ... 15 s.

    Raises: StorageUnavailable, DatabaseUnavailable: the last one, once two minutes have gone by.
    """
    retrying = Retrying(
        retry=retry_if_exception_type((StorageUnavailable, DatabaseUnavailable)),
        wait=wait_exponential(multiplier=1, max=_LONGEST_WAIT_S),
        stop=stop_after_delay(_GIVE_UP_AFTER_S),
        before_sleep=_say,
        reraise=True,
    )
    return retrying(do, *arguments, **named)


def _say(state: RetryCallState) -> None:
    log.warning("%s Trying again in %.0f s.", state.outcome.exception(), state.next_action.sleep)
