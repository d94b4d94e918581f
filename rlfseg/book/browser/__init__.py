"""A small model that runs in a reader's browser: its networks, and the page that asks them."""
