"""All settings: type, meaning, unit and range of each.

Their values are in conf/*.yaml, never here. Every class has `slots=True`, because without it a
misspelt key that is added with + would be accepted silently.
"""
