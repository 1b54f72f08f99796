"""A stream at a scale that nobody has at hand: what is decided on integers is done, what machines do is computed."""
