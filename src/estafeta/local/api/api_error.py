"""The errors that the service's APIs answer with, in AWS's shapes.

This module knows the error codes of Lambda's Invoke API and of the JSON 1.1 protocol.
"""

import json
from typing import Any

from estafeta.local.api.http import Response


class ApiError(Exception):
    """A refused request; `Service` turns the error into a response.

    Attributes:
        status: HTTP status.
        code: AWS's error code, for example `ResourceNotFoundException`.
        message: Text for the caller.
        fields: Further members of the body, for example `Reason`.
        headers: Further headers, for example `Retry-After`.
    """

    def __init__(
        self, status: int, code: str, message: str, *, headers: dict[str, str] | None = None, **fields: str
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.fields = fields
        self.headers = headers or {}

    def response(self, request_id: str) -> Response:
        """The response, for both the REST and the JSON 1.1 protocol: each has its own place for the code."""
        body: dict[str, Any] = {"__type": self.code, "Type": "User", "message": self.message, "Message": self.message}
        return Response(
            self.status,
            json.dumps(body | self.fields).encode(),
            {
                "Content-Type": "application/json",
                "x-amzn-ErrorType": self.code,
                "x-amzn-RequestId": request_id,
                **self.headers,
            },
        )


def not_found(arn: str) -> ApiError:
    """Error for a function or version that does not exist."""
    return ApiError(404, "ResourceNotFoundException", f"Function not found: {arn}")


def invalid(message: str) -> ApiError:
    """Error for a parameter outside its range."""
    return ApiError(400, "InvalidParameterValueException", message)
