"""What clients can ask for: one file per protocol."""
