"""The functions that the service offers: settings, published versions, event handling per version.

It knows the rules of Lambda's versions, not HTTP. Invariant: a published version never changes, and no number is given
twice; both outlive the service, in one JSON file.
"""

import json
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from estafeta.local.api.api_error import ApiError, invalid, not_found
from estafeta.local.template.config import AsyncConfig, FunctionConfig

ACCOUNT = "000000000000"
LATEST = "$LATEST"
_LAMBDAS_OWN = AsyncConfig()  # rules for a version that has none of its own

_REFERENCE = re.compile(
    r"(?:arn:aws:lambda:(?P<region>[a-z0-9-]+):)?(?:(?P<account>\d{12}):)?(?:function:)?"
    r"(?P<name>[A-Za-z0-9_-]+)(?::(?P<qualifier>\$LATEST|[A-Za-z0-9_-]+))?"
)


def function_arn(region: str, name: str) -> str:
    """ARN of a function, without a qualifier."""
    return f"arn:aws:lambda:{region}:{ACCOUNT}:function:{name}"


@dataclass(frozen=True, slots=True)
class FunctionVersion:
    """Settings under a version; execution environments belong to one of these.

    Attributes:
        version: `$LATEST` or a number.
        revision: Id that changes whenever the settings under this version change.
        modified_s: Time of the last change, in seconds since the epoch.
        arn: ARN without a qualifier.
    """

    config: FunctionConfig
    version: str
    revision: str
    modified_s: float
    arn: str

    @property
    def qualified_arn(self) -> str:
        """The ARN with the version."""
        return f"{self.arn}:{self.version}"

    @property
    def modified(self) -> str:
        """ISO 8601 time of the last change, as the API gives it."""
        return (
            datetime.fromtimestamp(self.modified_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "+0000")
        )

    @property
    def key(self) -> tuple[str, str, str]:
        """Key of the set of environments that run it."""
        return self.config.name, self.version, self.revision


@dataclass(slots=True)
class Function:
    """One function with its versions and its concurrency."""

    latest: FunctionVersion
    reserved_concurrency: int | None
    versions: list[FunctionVersion] = field(default_factory=list)
    event_configs: dict[str, AsyncConfig] = field(default_factory=dict)

    def event_config(self, version: str) -> AsyncConfig:
        """Rules for the events of a version; each version has its own, as on Lambda."""
        return self.event_configs.get(version, _LAMBDAS_OWN)


class Registry:
    """All functions by name.

    Args:
        configs: Settings from the template; they become `$LATEST`.
        region: Region in ARNs.
        path: File that keeps published versions over restarts of the service.
    """

    def __init__(self, configs: Iterable[FunctionConfig], region: str, path: Path) -> None:
        self._path = path
        self._functions: dict[str, Function] = {}
        kept: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        for config in configs:
            arn = function_arn(region, config.name)
            latest = FunctionVersion(config, LATEST, secrets.token_hex(16), time.time(), arn)
            function = self._functions[config.name] = Function(latest, config.reserved_concurrency)
            before = kept.get(config.name, {"versions": [], "event_configs": {}})
            for item in before["versions"]:
                function.versions.append(
                    FunctionVersion(
                        FunctionConfig.from_json(item["config"]),
                        item["version"],
                        item["revision"],
                        item["modified_s"],
                        arn,
                    )
                )
            function.event_configs = {key: AsyncConfig(**value) for key, value in before["event_configs"].items()}
            function.event_configs[LATEST] = config.asynchronous

    def functions(self) -> Iterable[Function]:
        """All functions, in the template's order."""
        return self._functions.values()

    def function(self, reference: str) -> Function:
        """Find a function by name, partial or full ARN, with or without a qualifier.

        Raises:
            ApiError: 404: there is none.
        """
        return self._find(reference)[0]

    def resolve(self, reference: str, qualifier: str = "") -> FunctionVersion:
        """Find the version that a call addresses; `$LATEST` if it names none.

        Raises:
            ApiError: 404; 400 if reference and qualifier contradict each other.
        """
        function, inner = self._find(reference)
        if inner and qualifier and inner != qualifier:
            raise invalid("The derived qualifier from the function name does not match the specified qualifier.")
        wanted = qualifier or inner or LATEST
        for version in (function.latest, *function.versions):
            if version.version == wanted:
                return version
        raise not_found(f"{function.latest.arn}:{wanted}")

    def update(self, function: Function, config: FunctionConfig) -> FunctionVersion:
        """Change the settings of `$LATEST`."""
        function.latest = replace(
            function.latest, config=config, revision=secrets.token_hex(16), modified_s=time.time()
        )
        return function.latest

    def publish(self, function: Function) -> FunctionVersion:
        """Freeze `$LATEST` as a new version, or return the last one if nothing has changed since."""
        last = function.versions[-1] if function.versions else None
        if last and last.config == function.latest.config:
            return last
        number = str(int(last.version) + 1 if last else 1)
        version = replace(function.latest, version=number, revision=secrets.token_hex(16), modified_s=time.time())
        function.versions.append(version)
        self._save()
        return version

    def set_event_config(self, function: Function, version: str, config: AsyncConfig) -> None:
        """Set the rules for the events of one version."""
        function.event_configs[version] = config
        self._save()

    def _find(self, reference: str) -> tuple[Function, str]:
        if function := self._functions.get(reference):  # a plain name, as nearly always
            return function, ""
        match = _REFERENCE.fullmatch(reference)
        if match is None:
            raise ApiError(400, "ValidationException", f"{reference!r} is not a function name or ARN.")
        function = self._functions.get(match["name"])
        if function is None:
            raise not_found(reference)
        return function, match["qualifier"] or ""

    def _save(self) -> None:
        data = {
            name: {
                "versions": [
                    {
                        "config": version.config.to_json(),
                        "version": version.version,
                        "revision": version.revision,
                        "modified_s": version.modified_s,
                    }
                    for version in function.versions
                ],
                "event_configs": {key: asdict(value) for key, value in function.event_configs.items()},
            }
            for name, function in self._functions.items()
        }
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(data, indent=1))
        temporary.replace(self._path)
