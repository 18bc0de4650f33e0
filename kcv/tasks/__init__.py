"""What each verb does, one file per verb. Each reads as its own diagram."""
