"""Recorded branches: the format, who writes and reads it, what it comes from and goes to."""
