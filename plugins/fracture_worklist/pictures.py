"""A small memory of rendered pictures, bounded in bytes."""

from collections.abc import Callable, Hashable
from contextlib import suppress
from threading import Lock, Semaphore

from cachetools import LRUCache


class Pictures:
    """Least recently used pictures go first. Safe for the threads of the api-server."""

    def __init__(self, *, max_bytes: int):
        self._held: LRUCache[Hashable, bytes] = LRUCache(max_bytes, getsizeof=len)
        self._changing = Lock()
        self.rendering = Semaphore(2)  # held by who decodes radiographs: one may take hundreds of MB

    def get(self, key: Hashable, render: Callable[[], bytes]) -> bytes:
        """The picture under `key`, rendered where it is not held. What `render` raises is passed on."""
        if (held := self._find(key)) is not None:
            return held
        with self.rendering:
            if (held := self._find(key)) is not None:  # another thread rendered it in the meantime
                return held
            picture = render()
            with self._changing, suppress(ValueError):  # larger than all that may be held
                self._held[key] = picture
            return picture

    def _find(self, key: Hashable) -> bytes | None:
        with self._changing:
            return self._held.get(key)
