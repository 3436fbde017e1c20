"""Pictures: what is decoded, to which tensor, and what a hostile file may cost."""
