"""The bundled texts, written for this project: the default run trains on them.

`training.setup` finds them as files of this folder; nothing else depends on them. docs/data.md describes them.
"""
