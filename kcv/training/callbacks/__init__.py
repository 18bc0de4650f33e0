"""What happens around the steps of `fit`, one concern a file."""
