"""Encode images into token files, and decode token files into pictures."""
