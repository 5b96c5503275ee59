"""The reconstruction methods and their registry."""
