"""All settings: type, meaning, unit and range of each.

Their values are in conf/*.yaml, never here. Every class has `slots=True`, because without it Hydra
silently accepts a misspelt key.
"""
