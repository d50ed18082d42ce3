"""Files and folders, here and in object stores: written whole, locked, checked."""
