"""Read a plain CloudFormation template and work out the values in it.

This module knows the language (parameters, conditions, `Ref`, `Fn::Sub` and the like), nothing of Lambda. It works out
a value only when somebody asks for it, so resources that the local service ignores may use functions that are unknown
here. Invariant: an error names the file, the resource and the property. Source: AWS CloudFormation User Guide,
"Template reference".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from estafeta.errors import UsageError

NO_VALUE = object()
_HINT = "The file must be a CloudFormation template in YAML."
_PLACEHOLDER = re.compile(r"\$\{(!?)([^}]+)\}")


class Template:
    """One template with the values of its parameters.

    Args:
        path: YAML file.
        pseudo: Values of `AWS::Region` and the other pseudo parameters.
        parameters: Values that replace the defaults.
        attribute: Function that gives the value of `Ref` (attribute `""`) and `Fn::GetAtt` for a logical id.

    Attributes:
        resources: Definitions by logical id.
        parameters: Names of all parameters.

    Raises:
        UsageError: The file cannot be read, is no template, or lacks a parameter that was given.
    """

    def __init__(
        self,
        path: Path,
        *,
        pseudo: Mapping[str, str],
        parameters: Mapping[str, str],
        attribute: Callable[[Template, str, str], str],
    ) -> None:
        self.path = path
        self._pseudo = pseudo
        self._attribute = attribute
        try:
            document = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        except OSError as error:
            raise UsageError(f"Template {path} cannot be read: {error.strerror}", hint="Check the path.") from error
        except yaml.YAMLError as error:
            raise UsageError(f"Template {path} is not YAML: {error}", hint=_HINT) from error
        if not isinstance(document, dict) or not isinstance(document.get("Resources"), dict):
            raise UsageError(f"Template {path} has no Resources", hint=_HINT)
        self.resources: dict[str, dict[str, Any]] = document["Resources"]
        self._conditions: dict[str, Any] = document.get("Conditions") or {}
        declared: dict[str, Any] = document.get("Parameters") or {}
        unknown = parameters.keys() - declared.keys()
        if unknown:
            raise UsageError(
                f"Template {path} has no parameter {', '.join(sorted(unknown))}",
                hint=f"Its parameters: {', '.join(declared)}.",
            )
        self.parameters = frozenset(declared)
        self._parameters = {
            name: parameters.get(name, item.get("Default"))
            for name, item in declared.items()
            if name in parameters or "Default" in item
        }

    def of_type(self, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """All resources of a type that exist under the template's conditions: logical id and definition."""
        for logical_id, resource in self.resources.items():
            if resource.get("Type") == kind:
                condition = resource.get("Condition")
                if condition is None or self.condition(str(condition), f"{logical_id}: Condition"):
                    yield logical_id, resource

    def condition(self, name: str, place: str) -> bool:
        """Work out a named condition."""
        if name not in self._conditions:
            raise self.error(place, f"there is no condition {name!r}")
        return bool(self.value(self._conditions[name], f"Conditions: {name}"))

    def value(self, node: Any, place: str) -> Any:
        """Work out a value; members that are `AWS::NoValue` are left out.

        Args:
            node: Value as parsed from YAML.
            place: Resource and property, for errors.
        """
        if isinstance(node, list):
            items = (self.value(item, place) for item in node)
            return [item for item in items if item is not NO_VALUE]
        if not isinstance(node, dict):
            return node
        if len(node) == 1:
            name, argument = next(iter(node.items()))
            function = _FUNCTIONS.get(name)
            if function:
                return function(self, argument, place)
            if str(name).startswith("Fn::"):
                raise self.error(place, f"{name} is not understood here")
        members = {key: self.value(item, f"{place}.{key}") for key, item in node.items()}
        return {key: item for key, item in members.items() if item is not NO_VALUE}

    def error(self, place: str, problem: str) -> UsageError:
        """Make an error that names file and place."""
        return UsageError(f"Template {self.path}: {place}: {problem}", hint="Change the template.")

    def _ref(self, name: Any, place: str) -> Any:
        if name == "AWS::NoValue":
            return NO_VALUE
        if name in self._pseudo:
            return self._pseudo[name]
        if name in self._parameters:
            return self._parameters[name]
        if name in self.resources:
            return self._attribute(self, name, "")
        raise self.error(place, f"{name!r} is neither a resource nor a parameter with a value")

    def _get_att(self, target: Any, place: str) -> str:
        logical_id, _, name = (".".join(target) if isinstance(target, list) else str(target)).partition(".")
        if logical_id not in self.resources:
            raise self.error(place, f"there is no resource {logical_id!r}")
        return self._attribute(self, logical_id, name)

    def _sub(self, argument: Any, place: str) -> str:
        text, local = argument if isinstance(argument, list) else (argument, {})

        def replaced(match: re.Match[str]) -> str:
            literal, name = match.groups()
            if literal:
                return f"${{{name}}}"
            if name in local:
                return str(self.value(local[name], place))
            return str(self._get_att(name, place) if "." in name else self._ref(name, place))

        return _PLACEHOLDER.sub(replaced, str(text))

    def _if(self, argument: Any, place: str) -> Any:
        name, yes, no = argument
        return self.value(yes if self.condition(name, place) else no, place)

    def _equals(self, argument: Any, place: str) -> bool:
        left, right = (self.value(item, place) for item in argument)
        return str(left) == str(right)

    def _join(self, argument: Any, place: str) -> str:
        separator, parts = argument
        return str(separator).join(str(part) for part in self.value(parts, place))


_FUNCTIONS: dict[str, Callable[[Template, Any, str], Any]] = {
    "Ref": Template._ref,
    "Condition": Template.condition,
    "Fn::GetAtt": Template._get_att,
    "Fn::Sub": Template._sub,
    "Fn::If": Template._if,
    "Fn::Equals": Template._equals,
    "Fn::Join": Template._join,
    "Fn::Not": lambda template, argument, place: not template.value(argument[0], place),
    "Fn::And": lambda template, argument, place: all(template.value(item, place) for item in argument),
    "Fn::Or": lambda template, argument, place: any(template.value(item, place) for item in argument),
}


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms, `!Ref x` for `{Ref: x}`."""


def _short_form(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    value: Any
    if isinstance(node, yaml.ScalarNode):
        value = loader.construct_scalar(node)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    elif isinstance(node, yaml.MappingNode):
        value = loader.construct_mapping(node, deep=True)
    return {suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}": value}


_Loader.add_multi_constructor("!", _short_form)
