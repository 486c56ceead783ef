"""What a run's folder says about itself, and the model card of its student."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fedsim.data.federation import Federation
from fedsim.process import memory
from fedsim.results import SCHEMA_VERSION, Row
from fedsim.world import World

_LIBRARIES = ("fedsim", "ray", "torch", "transformers", "deepspeed", "numpy", "datasets", "tokenizers")

_LIBRARY_NAMES = {
    "text": ("AutoModelForCausalLM", "text-generation"),
    "image": ("AutoModelForImageClassification", "image-classification"),
    "image_text": ("CLIPModel", "zero-shot-image-classification"),
}
"""For each modality, the class that reads the student and what the hub calls its task."""


def manifest(world: World, data: Federation, began: float) -> dict[str, Any]:
    """Versions, seed, data fingerprints, hardware; times are seconds since 1970, `wall_s` is that of the last
    attempt."""
    public = data.public
    return {
        "schema": SCHEMA_VERSION,
        "name": world.config.name,
        "status": "running",
        "seed": world.seed,
        "started": began,
        "versions": {"python": platform.python_version(), **{n: _version(n) for n in _LIBRARIES}},
        "hardware": {
            "machine": platform.machine(),
            "system": platform.system(),
            "cpus": os.cpu_count(),
            "memory_gib": round(memory() / 2**30, 1),
        },
        "data": {
            "description": data.description,
            "origin": data.origin,
            "modality": data.modality,
            "classes": data.classes,
            "groups": list(data.group_names),
            "examples": {
                "proxy": len(public.proxy),
                "validation": len(public.validation),
                "test": len(public.test),
                "private": list(world.sizes),
            },
            "proxy_bytes": sum(column.nbytes for column in public.proxy.arrays.values()),
            "fingerprints": data.fingerprints,
            "left_out": data.left_out,
        },
        "models": list(world.architectures()),
    }


def model_card(world: World, data: Federation, product: Row, summary: list[Row]) -> str:
    """README.md of the exported student: data, method, scores and bytes."""
    student, metric = world.config.student.model, product["metric"]
    auto, task = _LIBRARY_NAMES[data.modality]
    lines = [
        "---",
        "library_name: transformers",
        f"pipeline_tag: {task}",
        "tags: [federated-learning, knowledge-distillation, fedsim]",
        "---",
        "",
        f"# Student of {world.config.name}",
        "",
        f"A `{student}` model, trained by {product['contender'].replace('_', ' ')} from "
        f"{len(world.sizes)} institutions over {world.config.rounds} rounds with fedsim (seed {world.seed}).",
        "",
        f"- **Data:** {data.description}",
        f"- **Origin:** {data.origin}",
        f"- **Private examples per institution:** {', '.join(map(str, world.sizes))}; they stayed there.",
        f"- **Score on the global test set:** {metric} {product['score']:.4g}",
        f"- **Bytes sent:** {product['bytes_up']:,} up, {product['bytes_down']:,} down",
        "",
        f"| contender | {metric} | bytes up | bytes down |",
        "|---|---|---|---|",
        *(
            f"| {r['contender']} | {r['score']:.4g} | {r['bytes_up']:,} | {r['bytes_down']:,} |"
            for r in summary
        ),
        "",
        "Contenders that had not finished when this student was exported are not in the table.",
        "",
        "```python",
        f"from transformers import {auto}",
        f'model = {auto}.from_pretrained("student")',
        "```",
        "",
    ]
    if data.prompts:
        lines += [
            "It answers about an image by its similarity to:",
            "",
            *(f"- {p}" for p in data.prompts),
            "",
        ]
    return "\n".join(lines)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
