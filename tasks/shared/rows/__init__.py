"""Rows of problems and traces as they come from others, and the tables that stages write."""
