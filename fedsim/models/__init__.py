"""Models: presets by name, any `config.json`, or a pretrained folder, all through transformers.

`presets.py` holds the names and their shapes (no torch, so a config is checked in milliseconds);
`factory.py` builds them; `flops.py` counts what a forward pass costs. A new preset is one entry in
`presets.PRESETS`.
"""
