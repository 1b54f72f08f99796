"""Who runs the work of a build."""
