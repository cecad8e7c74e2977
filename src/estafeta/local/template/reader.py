"""Lambda functions out of a CloudFormation template.

It knows the resource types `AWS::Lambda::Function`, `AWS::Lambda::EventInvokeConfig` and `AWS::Logs::LogGroup`;
`language.py` has the language. Invariant: the service can run every function that is returned. The reader refuses any
other by name and property, long before its first invocation. Source: AWS CloudFormation User Guide,
"AWS::Lambda::Function".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from estafeta.errors import UsageError
from estafeta.local.template.config import (
    EPHEMERAL_MB,
    EVENT_AGE_S,
    LOG_DAYS,
    MEMORY_MB,
    RETRIES,
    TIMEOUT_S,
    AsyncConfig,
    FunctionConfig,
    RecursiveLoop,
)
from estafeta.local.template.language import NO_VALUE, Template
from estafeta.local.work.functions import ACCOUNT, LATEST, function_arn
from estafeta.local.work.variables import is_reserved

_FUNCTION = "AWS::Lambda::Function"
_EVENT_CONFIG = "AWS::Lambda::EventInvokeConfig"
_LOG_GROUP = "AWS::Logs::LogGroup"


def read_template(
    path: Path, *, region: str, parameters: Mapping[str, str] | None = None
) -> tuple[FunctionConfig, ...]:
    """Read all functions of a template.

    Args:
        path: CloudFormation YAML.
        region: Value of `AWS::Region`.
        parameters: Values that replace the parameters' defaults.

    Raises:
        UsageError: The template is wrong, or asks for something that the service cannot do.
    """
    template = open_template(path, region, parameters or {})
    events = _event_configs(template)
    functions = [
        _function(_Resource(template, logical_id, definition), events.get(_name(template, logical_id), AsyncConfig()))
        for logical_id, definition in template.of_type(_FUNCTION)
    ]
    if not functions:
        raise UsageError(f"Template {path} has no resource of type {_FUNCTION}", hint="Add a function to it.")
    names = {function.name for function in functions}
    for function in functions:
        destination = function.asynchronous.on_failure
        if destination and destination not in names:
            raise template.error(function.name, f"DestinationConfig.OnFailure: there is no function {destination!r}")
    return tuple(functions)


def open_template(path: Path, region: str, parameters: Mapping[str, str], stack: str = "estafeta") -> Template:
    """A template as deployed in a Region under a stack's name; arguments and errors are those of `read_template`."""
    pseudo = {
        "AWS::AccountId": ACCOUNT,
        "AWS::Partition": "aws",
        "AWS::Region": region,
        "AWS::StackName": stack,
        "AWS::URLSuffix": "amazonaws.com",
    }
    return Template(path, pseudo=pseudo, parameters=parameters, attribute=_attribute)


@dataclass(frozen=True, slots=True)
class _Resource:
    """Properties of one resource, read with their checks."""

    template: Template
    logical_id: str
    definition: Mapping[str, Any]

    def get(self, name: str, default: Any = None) -> Any:
        """Work out a property given by its path, `LoggingConfig.LogGroup`."""
        node: Any = self.definition.get("Properties") or {}
        for part in name.split("."):
            if not isinstance(node, dict) or part not in node:
                return default
            node = node[part]
        value = self.template.value(node, self.place(name))
        return default if value is NO_VALUE else value

    def text(self, name: str, default: str | None = None) -> str:
        value = self.get(name, default)
        if not isinstance(value, str) or not value:
            raise self.error(name, "a text is needed")
        return value

    def number(self, name: str, default: int, limits: tuple[int, int]) -> int:
        value = self.get(name, default)
        low, high = limits
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise self.error(name, f"{value!r} is no whole number") from None
        if not low <= number <= high:
            raise self.error(name, f"{number} is not between {low} and {high}")
        return number

    def place(self, name: str) -> str:
        return f"{self.logical_id}: {name}"

    def error(self, name: str, problem: str) -> UsageError:
        return self.template.error(self.place(name), problem)


def _function(resource: _Resource, asynchronous: AsyncConfig) -> FunctionConfig:
    if resource.get("PackageType", "Zip") != "Zip":
        raise resource.error("PackageType", "the local service runs zip packages only, not container images")
    if "ImageUri" in (resource.definition["Properties"].get("Code") or {}):
        raise resource.error("Code", "the local service runs zip packages only, not container images")
    for name in ("CapacityProviderConfig", "DurableConfig", "Layers", "SnapStart"):
        if resource.get(name) is not None:
            raise resource.error(name, "the local service does not offer this")
    runtime = resource.text("Runtime")
    if not runtime.startswith("python3."):
        raise resource.error("Runtime", f"the local service runs Python functions only, not {runtime!r}")
    name = resource.text("FunctionName", resource.logical_id)
    reserved = resource.get("ReservedConcurrentExecutions")
    log_group = resource.text("LoggingConfig.LogGroup", f"/aws/lambda/{name}")
    return FunctionConfig(
        name=name,
        handler=resource.text("Handler"),
        runtime=runtime,
        architecture=str(resource.get("Architectures", ["x86_64"])[0]),
        memory_mb=resource.number("MemorySize", 128, MEMORY_MB),
        timeout_s=resource.number("Timeout", 3, TIMEOUT_S),
        environment=_environment(resource),
        ephemeral_mb=resource.number("EphemeralStorage.Size", 512, EPHEMERAL_MB),
        local_mount_path=_mount_path(resource),
        reserved_concurrency=None
        if reserved is None
        else resource.number("ReservedConcurrentExecutions", 0, (0, 10**6)),
        recursive_loop=_recursive_loop(resource),
        log_group=log_group,
        log_days=_log_days(resource.template, log_group),
        role=str(resource.get("Role", "")),
        preload=_preload(resource),
        asynchronous=asynchronous,
    )


def _environment(resource: _Resource) -> dict[str, str]:
    values = {str(key): _as_text(value) for key, value in resource.get("Environment.Variables", {}).items()}
    for name in values:
        if is_reserved(name):
            raise resource.error(f"Environment.Variables.{name}", "Lambda reserves this name")
    return values


def _as_text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)  # CloudFormation writes them as JSON does


def _mount_path(resource: _Resource) -> str | None:
    properties = resource.definition.get("Properties") or {}
    systems = properties.get("FileSystemConfigs") or []
    if not systems:
        return None
    path = resource.template.value(systems[0].get("LocalMountPath"), resource.place("FileSystemConfigs.LocalMountPath"))
    if not isinstance(path, str) or not path.startswith("/mnt/"):
        raise resource.error("FileSystemConfigs.LocalMountPath", f"{path!r} is not below /mnt/")
    return path.rstrip("/")


def _recursive_loop(resource: _Resource) -> RecursiveLoop:
    match resource.get("RecursiveLoop", "Terminate"):
        case "Allow":
            return "Allow"
        case "Terminate":
            return "Terminate"
        case other:
            raise resource.error("RecursiveLoop", f"{other!r} is neither 'Allow' nor 'Terminate'")


def _preload(resource: _Resource) -> tuple[str, ...]:
    metadata = resource.definition.get("Metadata") or {}
    names = (metadata.get("Estafeta") or {}).get("Preload") or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise resource.template.error(
            f"{resource.logical_id}: Metadata.Estafeta.Preload", "a list of module names is needed"
        )
    return tuple(names)


def _log_days(template: Template, name: str) -> int | None:
    """Days that a log group keeps its lines; None for ever, or if the template has no such group."""
    for logical_id, definition in template.of_type(_LOG_GROUP):
        group = _Resource(template, logical_id, definition)
        try:
            is_it = group.get("LogGroupName") == name
        except UsageError:  # a name that cannot be worked out here belongs to no function
            continue
        if is_it and group.get("RetentionInDays") is not None:
            return group.number("RetentionInDays", 0, LOG_DAYS)
    return None


def _event_configs(template: Template) -> dict[str, AsyncConfig]:
    """Rules for asynchronous events by function name."""
    configs: dict[str, AsyncConfig] = {}
    for logical_id, definition in template.of_type(_EVENT_CONFIG):
        resource = _Resource(template, logical_id, definition)
        if resource.text("Qualifier") != LATEST:
            raise resource.error("Qualifier", f"only {LATEST} exists when a template is deployed")
        destination = resource.get("DestinationConfig.OnFailure.Destination")
        if destination is not None and ":lambda:" not in str(destination):
            raise resource.error("DestinationConfig.OnFailure", "the local service delivers to functions only")
        if resource.get("DestinationConfig.OnSuccess") is not None:
            raise resource.error("DestinationConfig.OnSuccess", "the local service does not offer this")
        configs[function_name(resource.text("FunctionName"))] = AsyncConfig(
            retries=resource.number("MaximumRetryAttempts", RETRIES[1], RETRIES),
            max_event_age_s=resource.number("MaximumEventAgeInSeconds", EVENT_AGE_S[1], EVENT_AGE_S),
            on_failure=None if destination is None else function_name(str(destination)),
        )
    return configs


def function_name(reference: str) -> str:
    """The name in an ARN, or the name itself."""
    return reference.partition(":function:")[2].partition(":")[0] or reference


def _name(template: Template, logical_id: str) -> str:
    return _Resource(template, logical_id, template.resources[logical_id]).text("FunctionName", logical_id)


def _attribute(template: Template, logical_id: str, attribute: str) -> str:
    """`Ref` and `Fn::GetAtt`: real values for functions and log groups, the logical id for all other resources."""
    definition = template.resources[logical_id]
    kind = definition.get("Type")
    if kind == _FUNCTION:
        name = _name(template, logical_id)
        region = str(template.value({"Ref": "AWS::Region"}, logical_id))
        return {"": name, "Arn": function_arn(region, name)}.get(attribute, logical_id)
    if kind == _LOG_GROUP and not attribute:
        return _Resource(template, logical_id, definition).text("LogGroupName")
    return f"{logical_id}.{attribute}" if attribute else logical_id
