"""One pack as a page that a person can read."""
