"""Tokens in files: which images become them, how they are written, read and gone on with."""
