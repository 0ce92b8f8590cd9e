"""What to look at in a live training, as plain objects that a monitor drives."""
