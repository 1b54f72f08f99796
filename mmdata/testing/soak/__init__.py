"""The soak: kills, damaged media and a failing web without end in sight, and one command that says what was lost."""
