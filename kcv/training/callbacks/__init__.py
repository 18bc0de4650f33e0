"""What happens around the steps of `fit`: `logging` shows and keeps figures, `control` chooses and stops."""
