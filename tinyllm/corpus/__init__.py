"""The bundled texts, written for this project: the default run trains on them.

pretraining.json and chat.json are what training reads, as files of this folder. `python -m tinyllm.corpus`
makes them: facts from tables/ in the sentences of forms.toml (world.py), statements.json and dialogues.json.
docs/data.md describes them.
"""
