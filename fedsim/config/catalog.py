"""Public datasets by a short name: where they lie on the Hugging Face hub, and their columns.

`data: {source: hub, path: c4, modality: text}` stands for the fields below, which the resolved config
shows; any of them can be given beside the name. The hub changes: these are the places as of 2026-11.
"""

from __future__ import annotations

HUB: dict[str, dict[str, str]] = {
    "c4": {"path": "allenai/c4", "subset": "en", "text_column": "text"},
    "wikipedia": {"path": "wikimedia/wikipedia", "subset": "20231101.en", "text_column": "text"},
    # A repository of a script, which `datasets` no longer runs; the hub keeps a conversion.
    "bookcorpus": {
        "path": "bookcorpus/bookcorpus",
        "revision": "refs/convert/parquet",
        "text_column": "text",
    },
    # Asks for consent on its page, and then for a token.
    "imagenet": {"path": "ILSVRC/imagenet-1k", "image_column": "image", "label_column": "label"},
    "coco": {"path": "jxie/coco_captions", "image_column": "image", "caption_column": "caption"},
    # These two hold addresses of images in place of images; many are gone by now.
    "openimages": {"path": "dalle-mini/open-images", "image_column": "url"},
    "sbu": {
        "path": "vicenteor/sbu_captions",
        "revision": "refs/convert/parquet",
        "image_column": "image_url",
        "caption_column": "caption",
    },
    "conceptual_captions": {"path": "pixparse/cc3m-wds", "image_column": "jpg", "caption_column": "txt"},
}
"""Name → fields of `config.Source`."""
