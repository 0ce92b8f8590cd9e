"""The rldk-tracking command: one file for each subcommand."""
