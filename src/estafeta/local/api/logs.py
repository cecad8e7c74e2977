"""Two operations of the CloudWatch Logs API over the service's own logs, in the JSON 1.1 protocol.

It knows JSON shapes; `logs/search.py` does the searching. Invariant: callers can read only log groups of the service's
functions, so no name in a request leads out of the log folder. Source: CloudWatch Logs API reference,
"FilterLogEvents" and "DescribeLogStreams".
"""

import json
import sys
from pathlib import Path
from typing import Any

from estafeta.local.api.api_error import ApiError
from estafeta.local.api.http import Request, Response
from estafeta.local.logs.search import pattern, search
from estafeta.local.logs.streams import read_marks, stream_names
from estafeta.local.work.functions import ACCOUNT, Registry

TARGET = "Logs_20140328."
MAX_EVENTS = 10_000  # events in a page of FilterLogEvents
MAX_STREAMS = 50  # streams in a page of DescribeLogStreams


class LogsApi:
    """The reader of logs for callers.

    Args:
        registry: The functions, which name their log groups.
        root: Root folder of the logs.
        region: Region in ARNs.
    """

    def __init__(self, registry: Registry, root: Path, region: str) -> None:
        self._registry = registry
        self._root = root
        self._region = region

    def answer(self, request: Request) -> Response:
        """Answer one request.

        It reads files and may take a while, so the service calls it in a thread; it changes nothing.

        Raises:
            ApiError: The API refuses the request.
        """
        operation = request.headers.get("x-amz-target", "").removeprefix(TARGET)
        try:
            body = json.loads(request.body or b"{}")
            if operation == "FilterLogEvents":
                document = self._filter_log_events(body)
            elif operation == "DescribeLogStreams":
                document = self._describe_log_streams(body)
            else:
                raise ApiError(400, "UnknownOperationException", f"The local service does not offer {operation!r}.")
        except (ValueError, TypeError) as error:
            raise _invalid(str(error)) from error
        return Response(200, json.dumps(document).encode(), {"Content-Type": "application/x-amz-json-1.1"})

    def _filter_log_events(self, body: dict[str, Any]) -> dict[str, Any]:
        group = self._group(body)
        limit = int(body.get("limit", MAX_EVENTS))
        if not 1 <= limit <= MAX_EVENTS:
            raise _invalid(f"limit must be between 1 and {MAX_EVENTS}, not {limit}")
        names = stream_names(self._root, group)
        if "logStreamNames" in body:
            wanted = set(body["logStreamNames"])
            names = [name for name in names if name in wanted]
        prefix = body.get("logStreamNamePrefix", "")
        page = search(
            self._root,
            group,
            [name for name in names if name.startswith(prefix)],
            start_ms=int(body.get("startTime", 0)),
            end_ms=int(body.get("endTime", sys.maxsize)),
            matches=pattern(body.get("filterPattern", "")),
            limit=limit,
            token=body.get("nextToken"),
        )
        events = [
            {
                "logStreamName": event.stream,
                "timestamp": event.timestamp_ms,
                "ingestionTime": event.timestamp_ms,
                "message": event.message,
                "eventId": f"{event.timestamp_ms:014d}{event.offset:012d}{event.stream[-32:]}",
            }
            for event in page.events
        ]
        return {"events": events, "searchedLogStreams": []} | (
            {"nextToken": page.next_token} if page.next_token else {}
        )

    def _describe_log_streams(self, body: dict[str, Any]) -> dict[str, Any]:
        group = self._group(body)
        prefix = body.get("logStreamNamePrefix", "")
        streams = [self._describe(group, name) for name in stream_names(self._root, group) if name.startswith(prefix)]
        by_time = body.get("orderBy") == "LastEventTime"
        streams.sort(
            key=lambda stream: stream["lastEventTimestamp"] if by_time else stream["logStreamName"],
            reverse=bool(body.get("descending", False)),
        )
        first = int(body.get("nextToken") or 0)
        last = first + min(int(body.get("limit", MAX_STREAMS)), MAX_STREAMS)
        return {"logStreams": streams[first:last]} | ({"nextToken": str(last)} if last < len(streams) else {})

    def _describe(self, group: str, name: str) -> dict[str, Any]:
        times_ms = [time_ms for _, time_ms in read_marks(self._root, group, name)] or [0]
        return {
            "logStreamName": name,
            "creationTime": times_ms[0],
            "firstEventTimestamp": times_ms[0],
            "lastEventTimestamp": times_ms[-1],
            "lastIngestionTime": times_ms[-1],
            "arn": f"arn:aws:logs:{self._region}:{ACCOUNT}:log-group:{group}:log-stream:{name}",
            "storedBytes": 0,
        }

    def _group(self, body: dict[str, Any]) -> str:
        given = str(body.get("logGroupName") or body.get("logGroupIdentifier") or "")
        group = given.partition(":log-group:")[2] or given
        known = {function.latest.config.log_group for function in self._registry.functions()}
        if group not in known:
            raise ApiError(400, "ResourceNotFoundException", f"The specified log group does not exist: {given}")
        return group


def _invalid(message: str) -> ApiError:
    return ApiError(400, "InvalidParameterException", message)
