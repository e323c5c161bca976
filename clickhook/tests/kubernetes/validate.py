"""Validates rendered manifests (YAML files) against the strict schemas of the three newest
Kubernetes versions and against the CRDs of other projects, both as `scripts/engines --tests`
installs them, and prints all objects as JSON.

usage: validate.py CRDS FILE...
"""

import json
import pathlib
import sys

import jsonschema
import kubernetes_validate
import yaml

# The kinds whose CRDs no package has; the test compares them with the code.
WITHOUT_SCHEMA = {"kafka.strimzi.io", "clickhouse.altinity.com"}


def strict(schema):
    """Returns a CRD's schema as JSON Schema that refuses unknown fields, as the API does."""
    if isinstance(schema, list):
        return [strict(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    result = {}
    for key, value in schema.items():
        if key == "properties":
            result[key] = {name: strict(entry) for name, entry in value.items()}
        elif key not in ("default", "description", "format"):
            result[key] = strict(value) if key in ("items", "additionalProperties") else value
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        result.setdefault("additionalProperties", False)
    if schema.get("nullable") and "type" in result:
        result["type"] = [result["type"], "null"]
    return result


def of_crds(folder):
    """Returns a validator for each group, version and kind."""
    validators = {}
    for path in sorted(pathlib.Path(folder).glob("*.yaml")):
        for crd in yaml.safe_load_all(path.read_text()):
            if not crd or crd.get("kind") != "CustomResourceDefinition":
                continue
            spec = crd["spec"]
            for version in spec["versions"]:
                schema = strict(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"type": "object"}
                key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
                validators[key] = jsonschema.Draft202012Validator(schema)
    return validators


def main(crds, files):
    validators = of_crds(crds)
    versions = sorted(set(kubernetes_validate.utils.all_versions()), key=lambda v: [int(n) for n in v.split(".")])[-3:]
    assert len(versions) == 3 and len(validators) > 0, "run scripts/engines --tests"
    errors = []
    documents = {}
    for file in files:
        documents[file] = [entry for entry in yaml.safe_load_all(pathlib.Path(file).read_text()) if entry]
        for entry in documents[file]:
            kind = (entry["apiVersion"], entry["kind"])
            name = f"{pathlib.Path(file).name}: {entry['kind']}/{entry['metadata']['name']}"
            if kind[0].split("/")[0] in WITHOUT_SCHEMA:
                continue
            if kind in validators:
                for error in validators[kind].iter_errors(entry):
                    errors.append(f"{name}: {error.json_path}: {error.message}")
                continue
            for version in versions:
                try:
                    kubernetes_validate.validate(entry, version, strict=True)
                except Exception as error:  # a missing schema, too
                    path = getattr(error, "json_path", "")
                    reason = str(error) or getattr(error, "message", "")
                    errors.append(f"{name}: Kubernetes {version}: {path}: {reason}"[:2000])
    if errors:
        sys.exit("\n".join(errors))
    print(json.dumps({"versions": versions, "documents": documents}))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
