"""How results look: what several commands show, or what takes more than a few lines."""
