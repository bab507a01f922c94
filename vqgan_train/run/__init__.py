"""A run: its folder, who may write there, where it begins, and what it says."""
