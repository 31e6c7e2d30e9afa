"""What a user runs: the command line and the jobs behind it."""
