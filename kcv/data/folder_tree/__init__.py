"""Which folders of a tree are splits and which are classes."""
