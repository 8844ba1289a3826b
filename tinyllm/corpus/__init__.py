"""The bundled texts, written for this project: the default run trains on them.

Only `training.setup` opens them, as files of this folder. docs/data.md describes them.
"""
