"""The fault kit: servers, files and kills that misbehave on purpose, so that anyone can reproduce our claims."""
