"""A meeting of two processes, perhaps on two machines: they wait for each other and exchange their reports.

All that they share is a directory. The meeting uses the store that it helps to test: should that be broken, a meeting
fails at its deadline and the test with it.
"""

from __future__ import annotations

import json
from typing import Any

from estafeta.errors import UsageError
from estafeta.store.store import Backoff, Store, new_token

QUICK = Backoff(first_s=0.0002, factor=1.2, longest_s=0.005)


class Meeting:
    """Two that meet again and again, each time under another topic.

    Args:
        store: The shared directory.
        directory: A directory in it that no other meeting has used.
        me: Number of this one of the two, 0 or 1.
        patience_s: Seconds to wait for the other, each time.
    """

    def __init__(self, store: Store, directory: str, me: int, patience_s: float) -> None:
        self._store = store
        self._directory = directory
        self._me = me
        self._patience_s = patience_s
        store.make_directories(directory)
        if not self._say("begin", new_token()):
            raise UsageError(f"{directory} has been used before", hint="Choose another --peers-token.")

    def together(self, topic: object) -> None:
        """Come back when the other has come, too."""
        self.exchange(topic, None)

    def exchange(self, topic: object, said: Any) -> list[Any]:
        """Tell the other a JSON-ready value; returns the values of 0 and 1."""
        self._say(str(topic), said)
        names = {f"{topic}.0", f"{topic}.1"}
        if self._store.wait(self._directory, names.issubset, timeout_s=self._patience_s, backoff=QUICK) is None:
            raise TimeoutError(f"the other process did not come to {self._directory}/{topic}")
        return [json.loads(self._store.read(f"{self._directory}/{name}"))["said"] for name in sorted(names)]

    def _say(self, topic: str, said: Any) -> bool:
        token = new_token()
        content = json.dumps({"token": token, "said": said}).encode()
        return self._store.publish(f"{self._directory}/{topic}.{self._me}", [content], token)
