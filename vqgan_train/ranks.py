"""The processes of a run: who starts them, what each says, and what their end means."""
