"""What a person is told: wrong arguments, missing packages, text that is safe to show."""
