"""The loop of block decoding: its plan, its prompts, what it reads and what it changes."""
