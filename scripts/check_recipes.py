"""Check the deployment files against the schemas of the programs that read them.

    python -m scripts.check_recipes

    kuberay/        Kubernetes' own schemas, strict (kubernetes-validate), for pods and policies. For
                    RayCluster and RayJob: ``kuberay/schema.json``, the names and types of KubeRay's
                    API reference
    aws/, gcp/      schema of ``ray up``, from the installed Ray
    compose/        schema of the Compose specification, from check-jsonschema
    workflow.toml   parsed by the code of the command

Exit code 1 with one line per fault. Needs the development packages; part of ``make check``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator

from cluster.config import read_workflow
from corrfractal.common.errors import CorrFractalError

FOLDER = Path(__file__).parents[1] / "cluster" / "deploy"
KUBERNETES = "1.34"
CUSTOM = "ray.io/v1"


def check(path: Path) -> list[str]:
    """The faults of one file, one line each, with their place in the file."""
    if path.suffix == ".toml":
        try:
            read_workflow(path)
        except CorrFractalError as exc:
            return [str(exc)]
        return []
    try:
        documents = list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except yaml.YAMLError as exc:
        return [f"{path}: not YAML: {exc}"]
    found = [fault for document in documents for fault in CHECKERS[path.parent.name](document)]
    return [f"{path}: {fault}" for fault in found]


def recipes(folder: Path = FOLDER) -> list[Path]:
    """The files to check."""
    found = [path for name in CHECKERS for path in sorted((folder / name).glob("*.yaml"))]
    return [folder / "workflow.toml", *found]


def _kubernetes(document: Any) -> Iterator[str]:
    if not isinstance(document, dict) or document.get("apiVersion") != CUSTOM:
        yield from _builtin(document, "")
        return
    schema = json.loads((FOLDER / "kuberay" / "schema.json").read_text(encoding="utf-8"))
    yield from _faults(document, schema)
    for place, template in _pod_templates(document.get("spec"), "spec"):
        pod = {
            "apiVersion": "v1",
            "kind": "PodTemplate",
            "metadata": {"name": "pod"},
            "template": template,
        }
        yield from _builtin(pod, place)


def _builtin(document: Any, place: str) -> Iterator[str]:
    """Yield the faults of a built-in Kubernetes object, including unknown fields."""
    import kubernetes_validate

    try:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as exc:
        where = ".".join(map(str, exc.path)).removeprefix("template.")
        yield f"{place}{'.' if place else ''}{where}: {exc.message}"
    except (kubernetes_validate.SchemaNotFoundError, AttributeError, TypeError, KeyError) as exc:
        yield f"{place}: not an object of Kubernetes {KUBERNETES} ({exc})"


def _pod_templates(value: Any, place: str) -> Iterator[tuple[str, Any]]:
    """Yield all nested pod templates with their places."""
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _pod_templates(item, f"{place}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            if name in ("template", "submitterPodTemplate"):
                yield f"{place}.{name}", item
            else:
                yield from _pod_templates(item, f"{place}.{name}")


def _ray(document: Any) -> Iterator[str]:
    spec = find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    schema = Path(next(iter(spec.submodule_search_locations))) / "autoscaler" / "ray-schema.json"
    yield from _faults(document, json.loads(schema.read_text(encoding="utf-8")))
    if not isinstance(document, dict):
        return
    # The schema cannot express that this field names one of the types.
    head = document.get("head_node_type")
    if head not in document.get("available_node_types", {}):
        yield f"head_node_type: {head!r} is not one of available_node_types"


def _compose(document: Any) -> Iterator[str]:
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    yield from _faults(document, json.loads(schema.read_text(encoding="utf-8")))


def _faults(document: Any, schema: Any) -> Iterator[str]:
    for error in Draft202012Validator(schema).iter_errors(document):
        yield f"{error.json_path.removeprefix('$.')}: {error.message[:200]}"


CHECKERS = {"kuberay": _kubernetes, "aws": _ray, "gcp": _ray, "compose": _compose}


def main() -> int:
    """Check all files and print their faults."""
    faults = [fault for path in recipes() for fault in check(path)]
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"recipes: {len(recipes())} files, {len(faults)} faults")
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main())
