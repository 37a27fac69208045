"""Jobs, schedules, and running them from the command line."""
