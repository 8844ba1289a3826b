"""From files to batches: what training reads.

From the bottom up: files (bytes to strings), dialogue (the template of a conversation), texts (documents),
bpe and tokenizer (strings to ids), tokens (a corpus on disk), packing (documents into windows), batches.
"""
