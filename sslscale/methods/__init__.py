"""Learning algorithms, one folder each; the folder's name is the method's name in a configuration."""
