"""The JSON Schema of a record, made from its models.

`python -m robustbench_coss.records.schema` prints `docs/record-schema.json`.
"""

from __future__ import annotations

import json
from typing import Any

from pydantic.json_schema import GenerateJsonSchema

from robustbench_coss.records.record import adapter


class _Form(GenerateJsonSchema):
    """Of files: what has a default for code that makes a record is there in every file."""

    def field_is_required(self, field: Any, total: bool) -> bool:
        return field["type"] == "dataclass-field" or super().field_is_required(field, total)

    def default_schema(self, schema: Any) -> Any:
        return self.generate_inner(schema["schema"])

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def schema_text() -> str:
    """The schema as `docs/record-schema.json` holds it."""
    form = adapter().json_schema(schema_generator=_Form)
    form = {"$schema": _Form.schema_dialect, **form, "title": "robustbench-coss record"}
    text = json.dumps(form, indent=2, ensure_ascii=False)
    return text.replace("\\n", " ") + "\n"  # docstrings come with their line breaks


if __name__ == "__main__":
    print(schema_text(), end="")
