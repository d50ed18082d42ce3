"""What an experiment says: frozen settings with the papers' constants, and nothing that imports torch.

Planning a run and finding every error in a configuration must take a second, so the settings stand apart from the
code that they set. A method NAME has its settings in recipes/NAME.py and its code in methods/NAME.py.
"""
