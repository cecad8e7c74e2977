"""The part of the Lambda API that reads and changes functions' settings.

It knows JSON shapes and ranges, and tells the pool which environments a change makes outdated. Invariant: a refused
change has had no effect. Source: Lambda API reference, the operations by their names below.
"""

import json
from dataclasses import replace
from typing import Any

from estafeta.errors import UsageError
from estafeta.local.api.api_error import ApiError, invalid
from estafeta.local.api.http import Request, Response
from estafeta.local.faults import FAULTS, Faults
from estafeta.local.template.config import EVENT_AGE_S, MEMORY_MB, RETRIES, TIMEOUT_S, AsyncConfig, FunctionConfig
from estafeta.local.template.reader import function_name
from estafeta.local.work.functions import LATEST, Function, FunctionVersion, Registry
from estafeta.local.work.pool import Pool
from estafeta.local.work.variables import is_reserved


class ConfigApi:
    """Operations on functions, versions and their limits.

    Args:
        registry: The functions.
        pool: Pool, which drops environments whose settings are no longer current.
    """

    def __init__(self, registry: Registry, pool: Pool) -> None:
        self._registry = registry
        self._pool = pool

    def answer(self, request: Request) -> Response | None:
        """Answer one request; None if this API has no operation of that path.

        Raises:
            ApiError: The API refuses the request.
        """
        qualifier = request.query.get("Qualifier", "")
        find = self._registry.function
        match request.method, request.segments:
            case "GET", ["2015-03-31", "functions"]:
                functions = [describe(function.latest) for function in self._registry.functions()]
                return _json(200, {"Functions": functions})
            case "GET", ["2015-03-31", "functions", reference, "configuration"]:
                return _json(200, describe(self._registry.resolve(reference, qualifier)))
            case "PUT", ["2015-03-31", "functions", reference, "configuration"]:
                return self._update_configuration(find(reference), _body(request))
            case "POST", ["2015-03-31", "functions", reference, "versions"]:
                return _json(201, describe(self._registry.publish(find(reference))))
            case "GET", ["2015-03-31", "functions", reference, "versions"]:
                function = find(reference)
                return _json(200, {"Versions": [describe(item) for item in (function.latest, *function.versions)]})
            case "GET", ["2016-08-19", "account-settings"]:
                return self._account_settings()
            case "GET", ["2024-08-31", "functions", reference, "recursion-config"]:
                return _json(200, {"RecursiveLoop": find(reference).latest.config.recursive_loop})
            case "PUT", ["2017-10-31", "functions", reference, "concurrency"]:
                return self._put_concurrency(find(reference), _body(request))
            case "GET", ["2019-09-30", "functions", reference, "concurrency"]:
                reserved = find(reference).reserved_concurrency
                return _json(200, {} if reserved is None else {"ReservedConcurrentExecutions": reserved})
            case "PUT", ["2019-09-25", "functions", reference, "event-invoke-config"]:
                version = self._registry.resolve(reference, qualifier)
                return self._put_event_config(find(reference), version, _body(request))
            case "GET", ["2019-09-25", "functions", reference, "event-invoke-config"]:
                version = self._registry.resolve(reference, qualifier)
                config = find(reference).event_configs.get(version.version)
                if config is None:
                    raise ApiError(
                        404,
                        "ResourceNotFoundException",
                        f"The function {version.qualified_arn} doesn't have an EventInvokeConfig",
                    )
                return _json(200, self._describe_event_config(version, config))
        return None

    def _account_settings(self) -> Response:
        functions, limit = tuple(self._registry.functions()), self._pool.account_limit
        reserved = sum(function.reserved_concurrency or 0 for function in functions)
        limits = {"ConcurrentExecutions": limit, "UnreservedConcurrentExecutions": limit - reserved}
        return _json(200, {"AccountLimit": limits, "AccountUsage": {"FunctionCount": len(functions)}})

    def _update_configuration(self, function: Function, body: dict[str, Any]) -> Response:
        config = function.latest.config
        changes: dict[str, Any] = {}
        if "Timeout" in body:
            changes["timeout_s"] = _ranged(body, "Timeout", TIMEOUT_S)
        if "MemorySize" in body:
            changes["memory_mb"] = _ranged(body, "MemorySize", MEMORY_MB)
        if "Environment" in body:
            changes["environment"] = _variables(body["Environment"])
        other = body.keys() - {"Timeout", "MemorySize", "Environment", "FunctionName"}
        if other:
            raise invalid(
                f"The local service changes Timeout, MemorySize and Environment only, not {', '.join(sorted(other))}."
            )
        changed: FunctionConfig = replace(config, **changes)
        before = function.latest
        version = self._registry.update(function, changed)
        self._pool.retire(before)
        return _json(200, describe(version))

    def _put_concurrency(self, function: Function, body: dict[str, Any]) -> Response:
        limit = _ranged(body, "ReservedConcurrentExecutions", (0, 10**6))
        function.reserved_concurrency = limit
        return _json(200, {"ReservedConcurrentExecutions": limit})

    def _put_event_config(self, function: Function, version: FunctionVersion, body: dict[str, Any]) -> Response:
        destination = (body.get("DestinationConfig") or {}).get("OnFailure", {}).get("Destination")
        if destination is not None:
            self._registry.function(destination)
        config = AsyncConfig(
            retries=_ranged(body, "MaximumRetryAttempts", RETRIES, RETRIES[1]),
            max_event_age_s=_ranged(body, "MaximumEventAgeInSeconds", EVENT_AGE_S, EVENT_AGE_S[1]),
            on_failure=None if destination is None else function_name(destination),
        )
        self._registry.set_event_config(function, version.version, config)
        return _json(200, self._describe_event_config(version, config))

    def _describe_event_config(self, version: FunctionVersion, config: AsyncConfig) -> dict[str, Any]:
        target = (
            {} if config.on_failure is None else {"Destination": self._registry.function(config.on_failure).latest.arn}
        )
        return {
            "FunctionArn": version.qualified_arn,
            "LastModified": version.modified_s,
            "MaximumRetryAttempts": config.retries,
            "MaximumEventAgeInSeconds": config.max_event_age_s,
            "DestinationConfig": {"OnSuccess": {}, "OnFailure": target},
        }


def describe(version: FunctionVersion) -> dict[str, Any]:
    """The structure `FunctionConfiguration` of the API."""
    config = version.config
    described: dict[str, Any] = {
        "FunctionName": config.name,
        "FunctionArn": version.arn if version.version == LATEST else version.qualified_arn,
        "Runtime": config.runtime,
        "Role": config.role,
        "Handler": config.handler,
        "CodeSize": 0,
        "Description": "",
        "Timeout": config.timeout_s,
        "MemorySize": config.memory_mb,
        "LastModified": version.modified,
        "Version": version.version,
        "Environment": {"Variables": config.environment},
        "RevisionId": version.revision,
        "State": "Active",
        "LastUpdateStatus": "Successful",
        "PackageType": "Zip",
        "Architectures": [config.architecture],
        "EphemeralStorage": {"Size": config.ephemeral_mb},
        "LoggingConfig": {"LogFormat": "Text", "LogGroup": config.log_group},
    }
    if config.local_mount_path:
        described["FileSystemConfigs"] = [{"Arn": "local", "LocalMountPath": config.local_mount_path}]
    return described


def _json(status: int, document: dict[str, Any]) -> Response:
    return Response(status, json.dumps(document).encode(), {"Content-Type": "application/json"})


def _body(request: Request) -> dict[str, Any]:
    try:
        document = json.loads(request.body)
    except ValueError as error:
        raise ApiError(400, "SerializationException", f"The request body is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise ApiError(400, "SerializationException", "The request body is not a JSON object.")
    return document


def _ranged(body: dict[str, Any], name: str, limits: tuple[int, int], default: int | None = None) -> int:
    value = body.get(name, default)
    low, high = limits
    if not isinstance(value, int) or not low <= value <= high:
        raise invalid(f"Value {value!r} at {name!r} failed to satisfy constraint: between {low} and {high}.")
    return value


def _variables(environment: Any) -> dict[str, str]:
    variables = environment.get("Variables", {}) if isinstance(environment, dict) else None
    if not isinstance(variables, dict) or not all(isinstance(value, str) for value in variables.values()):
        raise invalid("Environment must hold Variables, which map names to texts.")
    reserved = sorted(name for name in variables if is_reserved(name))
    if reserved:
        raise invalid(f"Lambda reserves the environment variable names {', '.join(reserved)}.")
    try:
        Faults.parse(variables.get(FAULTS, ""))
    except UsageError as error:
        raise invalid(f"{FAULTS}: {error} {error.hint}") from error
    return variables
