"""MLflow: the runs of a graph as its store shows them, and checkpoints as its models. The only importer of mlflow."""
