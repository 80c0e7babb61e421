"""The chunk store, ``ROOT_PATH/.store/``: each piece of content once, named by the SHA-256 of its plain bytes."""

ENDING = ".manifest.zst"
"""The ending of the name of a manifest."""
