"""A small memory of rendered pictures, bounded in bytes."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock, Semaphore


class Pictures:
    """Least recently used pictures go first. Safe for the threads of the api-server."""

    def __init__(self, *, max_bytes: int):
        self._max_bytes = max_bytes
        self._held: OrderedDict[Hashable, bytes] = OrderedDict()
        self._size_bytes = 0
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
            self._keep(key, picture)
            return picture

    def _find(self, key: Hashable) -> bytes | None:
        with self._changing:
            if key in self._held:
                self._held.move_to_end(key)
            return self._held.get(key)

    def _keep(self, key: Hashable, picture: bytes) -> None:
        if len(picture) > self._max_bytes:
            return
        with self._changing:
            self._size_bytes += len(picture) - len(self._held.pop(key, b""))
            self._held[key] = picture
            while self._size_bytes > self._max_bytes:
                _, dropped = self._held.popitem(last=False)
                self._size_bytes -= len(dropped)
