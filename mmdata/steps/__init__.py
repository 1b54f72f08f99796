"""One file per kind of step: a Sample in, a Sample or a Drop out."""
