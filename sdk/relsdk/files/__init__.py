"""Files and folders that are written whole or not at all, and locks: the only room that renames files."""
