"""Additions to moto's CloudFormation, which lacks some resources and forgets a change set's parameters.

The client sends the real templates, and botocore checks the calls; of the stack, moto makes the file system. Names of
the functions stand in the outputs, as they would.
"""

from __future__ import annotations

from typing import Any

import pytest
from moto.cloudformation import models

MADE = ("AWS::EFS::FileSystem", "AWS::S3::Bucket")


def complete(patch: pytest.MonkeyPatch) -> None:
    """Patch moto."""
    parse, apply, diff = models.Stack.parse_template, models.ChangeSet.apply, models.ChangeSet.diff

    def parse_template(template: str) -> dict[str, Any]:
        return reduced(parse(template))

    def parse_change(self: models.ChangeSet) -> None:
        self.template_dict = parse_template(self.template)

    def apply_all(self: models.ChangeSet) -> None:
        if self.change_set_type == "CREATE":
            apply(self)  # moto's own result for the stack never changes
            self.stack.template = self.template
            self.stack._parse_template()
        self.stack.parameters = dict(self.parameters)
        self.stack.output_map = self.stack._create_output_map()

    def diff_all(self: models.ChangeSet) -> list[models.Change]:
        changed = self.change_set_type == "UPDATE" and self.parameters.items() - self.stack.stack_parameters.items()
        functions = [models.Change("Modify", "Worker", "AWS::Lambda::Function")] if changed else []
        return [*diff(self), *functions]

    patch.setattr(models.ChangeSet, "diff", diff_all)
    defaults = models.Stack.stack_parameters.fget
    patch.setattr(models.Stack, "stack_parameters", property(lambda self: {**defaults(self), **self.parameters}))
    patch.setattr(models.Stack, "parse_template", staticmethod(parse_template))
    patch.setattr(models.ChangeSet, "_parse_template", parse_change)
    patch.setattr(models.ChangeSet, "apply", apply_all)


def reduced(template: dict[str, Any]) -> dict[str, Any]:
    """A template without the resources that moto cannot make."""
    template = {key: value for key, value in template.items() if key not in ("Transform", "Conditions")}
    is_stack = "Worker" in template["Resources"]
    template["Resources"] = {
        name: {key: value for key, value in resource.items() if key not in ("DependsOn", "Condition")}
        for name, resource in template["Resources"].items()
        if resource["Type"] in MADE
    }
    if is_stack:
        template["Resources"]["FileSystem"]["DeletionPolicy"] = "Retain"
        del template["Resources"]["FileSystem"]["Properties"]["FileSystemPolicy"]
        names = {
            f"{role.title()}Function": {"Fn::Sub": f"${{AWS::StackName}}-{role}"}
            for role in ("worker", "merge", "control")
        }
        template["Outputs"] = {name: {"Value": value} for name, value in names.items()}
        template["Outputs"] |= {
            "Bucket": {"Value": {"Ref": "Bucket"}},
            "FileSystemId": {"Value": {"Ref": "FileSystem"}},
        }
    return template
