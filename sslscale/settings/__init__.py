"""Settings of stages and trainings: frozen dataclasses that a configuration is read into. No torch."""
