"""A run that was cut short, continued to the bit: its whole state, on disk, and back."""
