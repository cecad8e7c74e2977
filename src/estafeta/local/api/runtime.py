"""The Lambda Runtime API of one execution environment, as HTTP.

It knows paths and headers; the environment acts on them. The API has no authentication, as on Lambda; the port is on
the loopback interface, and only the environment is told it. Source: Lambda Developer Guide, "Using the Lambda runtime
API for custom runtimes".
"""

from typing import Protocol

from estafeta.local.api.http import Reply, Request, Response

_NEXT = "/2018-06-01/runtime/invocation/next"


class Runtime(Protocol):
    """The receiver of a runtime client's calls."""

    def on_next(self, reply: Reply) -> None:
        """The runtime client is ready for an event; the reply brings one as soon as there is one."""

    def on_answer(self, reply: Reply, request_id: str, attempt_id: str, body: bytes, *, failed: bool) -> None:
        """The handler has answered an event, or failed."""

    def on_init_error(self, error_type: str, body: bytes) -> None:
        """The runtime client cannot start."""


class RuntimeApi:
    """HTTP application for one environment's port."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __call__(self, request: Request, reply: Reply) -> None:
        """Answer one request of the runtime client."""
        if request.target == _NEXT:
            self._runtime.on_next(reply)
            return
        match request.method, request.segments:
            case "POST", ["2018-06-01", "runtime", "invocation", request_id, "response" | "error" as kind]:
                attempt_id = request.headers.get("lambda-runtime-invocation-id", "")
                self._runtime.on_answer(reply, request_id, attempt_id, request.body, failed=kind == "error")
            case "POST", ["2018-06-01", "runtime", "init", "error"]:
                error_type = request.headers.get("lambda-runtime-function-error-type", "Runtime.Unknown")
                self._runtime.on_init_error(error_type, request.body)
                reply(Response(202))
            case _:
                reply(Response(404))
