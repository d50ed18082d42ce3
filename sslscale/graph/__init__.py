"""The graph of stages: its description, its plan, its execution. No torch, no Ray."""
