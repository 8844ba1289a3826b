"""Text lives here, from files to batches; other folders import batches, tokenizer, texts and dialogue.

From the bottom up: bpe (chunks, and merges learnt from them), files (bytes to strings), dialogue (the
template of a conversation), texts (documents), utf8 (which tokens make text), tokenizer (strings to ids),
tokens (a corpus on disk), packing (documents into windows), batches.
"""
